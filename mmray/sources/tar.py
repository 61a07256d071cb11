"""Members of a tar, one after the other, in bounded memory; damage is yielded instead of raised.

Python's `tarfile` stops silently at a damaged header inside an archive, and takes a tar that is truncated
between two members for complete; both would lose records silently. So we read tars ourselves.
"""

from __future__ import annotations

import posixpath
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from mmray.sources.tar_header import Header, parse_header, pax_records

ALL_BYTES = sys.maxsize  # of a payload

_BLOCK = tarfile.BLOCKSIZE
_MAX_NAME_BYTES = 1 << 16  # of a long-name or pax header: names, not data
_MAX_NAMES = 8  # such headers before one member; a resync reads them again from each block on
_ZEROS = bytes(_BLOCK)
_MAGIC = 257  # offset in a header
_STEP_BYTES = 1 << 18  # bytes that are searched at once for a header; less than a stream buffers
_SEARCH_BYTES = 1 << 30  # of a compressed tar: a megabyte of one may hold 32 GB without a header
_SPARSE_FLAG_AT = (482, 504)  # of the header, and of the blocks that continue its map
_NAME_TYPES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE)


class ByteFile(Protocol):
    """Interface of a file for the reader: pyarrow's and Python's binary files both have it."""

    def read(self, size: int, /) -> bytes: ...
    def seek(self, position: int, /) -> object: ...
    def tell(self) -> int: ...


@dataclass(frozen=True)
class Member:
    """One regular file in the tar."""

    name: str
    offset: int  # of its first header
    end: int  # just past its padded payload
    size: int  # bytes of payload
    data: bytes | None  # its first bytes, as many as wanted; None if none, or if it is too large
    payload: int = 0  # where it begins
    is_sparse: bool = False  # of a sparse file: its holes are left out, so this is not the file's content


@dataclass(frozen=True)
class Other:
    """Neither a regular file nor a directory: a link, a device, a pipe."""

    name: str
    offset: int
    end: int
    #: Name of a link's target; "" if it is outside the tar; None: it is not a link.
    target: str | None


@dataclass(frozen=True)
class Damage:
    """A byte range that cannot be read as members."""

    offset: int
    end: int
    kind: str  # "shard-truncated" or "shard-damaged"
    reason: str
    name: str | None = None  # of the truncated member, if its header is complete


def walk(
    file: ByteFile, size: int | None, *, start: int = 0, max_bytes: int, wanted: Callable[[str], int]
) -> Iterator[Member | Other | Damage]:
    """Yield the contents of a tar, except directories, from a header at `start` to the end.

    Args:
        file: a seekable file; if it ends early, its `fault` may say why.
        size: its size in bytes; None if unknown (a compressed stream).
        start: offset of the first header to read.
        max_bytes: payloads larger than this are skipped (`data` is None).
        wanted: from a member's name to how many bytes of its payload to read: none, some, or `ALL_BYTES`.
    """
    offset = start
    limit = sys.maxsize if size is None else size
    while True:
        begin = offset
        try:
            info, payload = _header(file, offset)
        except EOFError:
            end = max(begin, file.tell()) if size is None else size
            reason = f"the tar is truncated at byte {end}, without its end mark"
            yield Damage(begin, end, "shard-truncated", _fault(file) or reason)
            return
        except tarfile.HeaderError as e:
            info, payload, ends, reason = None, begin, False, f"no header at byte {begin}: {e}"
        else:
            ends = info is None and _is_end_mark(file, payload)
            reason = f"zeros at byte {payload}, but no end mark"
        if info is None:
            stop = limit if size is not None else payload + _SEARCH_BYTES
            found = _resync(file, payload + _BLOCK, stop)
            if found is None and size is None and file.tell() >= stop:
                reason = f"no header within {_SEARCH_BYTES} bytes of byte {begin}: reading stops here"
            elif found is None and ends and not _fault(file):
                return
            offset = found if found is not None else file.tell() if size is None else size
            yield Damage(begin, offset, "shard-damaged", _fault(file) or reason)
            if found is None:
                return
            continue
        if info.type not in tarfile.REGULAR_TYPES:
            # Directories and links may state a size but have no payload (POSIX.1-2001, pax, ustar Interchange
            # Format); members of unknown types have one.
            # A size beyond the file, of up to 2^95, must not become a place to seek to.
            has_payload = info.type not in tarfile.SUPPORTED_TYPES
            offset = min(limit, payload + _padded(info.size)) if has_payload else payload
            if info.type != tarfile.DIRTYPE:
                yield Other(info.name, begin, offset, _target(info))
            continue
        offset = payload + _padded(info.size)
        data, end = None, min(limit, payload + info.size)
        some = wanted(info.name) if end == payload + info.size else 0
        if some and (info.size <= max_bytes or some < ALL_BYTES):
            file.seek(payload)
            data = file.read(min(info.size, some))
            end = payload + (len(data) if len(data) < some else info.size)
        if end < payload + info.size:
            reason = f"the tar is truncated at byte {end}, within {info.name!r}"
            end = end if size is None else size
            yield Damage(begin, end, "shard-truncated", _fault(file) or reason, info.name)
            return
        yield Member(info.name, begin, offset, info.size, data, payload, info.is_sparse)


def _header(file: ByteFile, offset: int) -> tuple[Header | None, int]:
    """Parse the header at `offset` with the long-name and pax headers before it.

    Returns:
        The member's header and the offset of its payload; None and its own offset for a block of zeros.

    Raises:
        EOFError: the file ends here.
        tarfile.HeaderError: the block is not a header.
    """
    overrides: dict[str, str] = {}
    for _ in range(_MAX_NAMES + 1):
        file.seek(offset)
        block = file.read(_BLOCK)
        if len(block) < _BLOCK:
            raise EOFError
        if block == _ZEROS:
            return None, offset
        info = parse_header(block)
        if info.size < 0:
            raise tarfile.HeaderError(f"{info.name!r} has a negative size")
        offset += _BLOCK
        if info.type not in _NAME_TYPES:
            # For a sparse file, tar invents "path".
            info.name = overrides.get("GNU.sparse.name", overrides.get("path", info.name))
            info.linkname = overrides.get("linkpath", info.linkname)
            info.size = int(overrides.get("size", info.size))
            info.is_sparse |= any(key.startswith("GNU.sparse.") for key in overrides)
            return info, _past_sparse_map(file, block, info, offset)
        if info.size > _MAX_NAME_BYTES:
            raise tarfile.HeaderError(f"a name of {info.size} bytes")
        extra = file.read(info.size)
        if len(extra) < info.size:
            raise EOFError
        if info.type == tarfile.GNUTYPE_LONGNAME:
            overrides["path"] = extra.rstrip(b"\0").decode("utf-8", "backslashreplace")
        elif info.type == tarfile.GNUTYPE_LONGLINK:
            overrides["linkpath"] = extra.rstrip(b"\0").decode("utf-8", "backslashreplace")
        elif info.type == tarfile.XHDTYPE:
            overrides |= pax_records(extra)
        offset += _padded(info.size)
    raise tarfile.HeaderError(f"more than {_MAX_NAMES} names for one member")


def _past_sparse_map(file: ByteFile, block: bytes, info: Header, offset: int) -> int:
    """Where the payload begins: in GNU's sparse files, after blocks that continue the map of their holes.

    As in GNU tar's manual, "Storing Sparse Files": a flag in each block says whether another follows.
    """
    at = _SPARSE_FLAG_AT[0]
    while info.type == tarfile.GNUTYPE_SPARSE and block[at]:
        file.seek(offset)
        block, at = file.read(_BLOCK), _SPARSE_FLAG_AT[1]
        if len(block) < _BLOCK:
            raise EOFError
        offset += _BLOCK
    return offset


def _target(info: Header) -> str | None:
    if info.type == tarfile.LNKTYPE:
        return info.linkname
    if info.type != tarfile.SYMTYPE:
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(info.name), info.linkname))
    return "" if path.startswith(("/", "../")) else path


def _fault(file: ByteFile) -> str | None:
    """Why a compressed file ended, if it is damaged."""
    return getattr(file, "fault", None)


def _padded(size: int) -> int:
    """Bytes of a payload in the tar: whole blocks."""
    return -(-size // _BLOCK) * _BLOCK


def _is_end_mark(file: ByteFile, offset: int) -> bool:
    """Whether the zeros at `offset` continue for a second block, or to the end of the file."""
    file.seek(offset + _BLOCK)
    return not file.read(_BLOCK).strip(b"\0")


def _resync(file: ByteFile, start: int, stop: int) -> int | None:
    """Offset of the next block that is a header with a valid checksum and the ustar magic.

    Returns:
        None if there is none up to the end, where the file then is, or none before `stop`.
    """
    offset = start
    while True:
        file.seek(offset)
        step = file.read(_STEP_BYTES)
        at = step.find(b"ustar")
        while at >= 0:
            block = (at - _MAGIC) // _BLOCK * _BLOCK
            if at % _BLOCK == _MAGIC and _is_header(step[block : block + _BLOCK]):
                return offset + block
            at = step.find(b"ustar", at + 1)
        offset += len(step)
        if len(step) < _STEP_BYTES or offset >= stop:
            return None


def _is_header(block: bytes) -> bool:
    try:
        parse_header(block)
    except tarfile.HeaderError:  # also of a truncated one
        return False
    return True
