"""Reads files named by a folder or a manifest: those inside the input, and no others unless allowed.

A path is untrusted. Paths that leave the input (absolute, "..", a link) are refused, because they could be
any file of the machine; so is anything but a regular file, because a pipe never ends.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace
from typing import NamedTuple, NoReturn

import pyarrow.fs as pafs

from mmray.errors import ChangedError, RecordError
from mmray.sources.options import ReadOptions
from mmray.storage import Location

# Errors of the system for invalid paths.
_NO_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EILSEQ)
_HOW = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOFOLLOW", "O_CLOEXEC", "O_BINARY")
)
_SHOWN = 120  # characters of a path, in a reason


class Listed(NamedTuple):
    """State of a file when its folder was listed."""

    size: int
    mtime_ns: int


class Files:
    """Reads files by their paths.

    Args:
        base: the directory of relative paths.
        root: of the input; equal to `base`, or above it.
        options: bounds.
    """

    def __init__(self, base: Location, root: Location, options: ReadOptions) -> None:
        self._base = base
        self._max_bytes = options.member_bytes
        self._outside = options.files.allow_outside
        self._root = os.path.realpath(root.path) if base.is_local else _normal(root.path)

    def read(self, path: str, listed: Listed | None = None) -> bytes:
        """All bytes of a file.

        Args:
            path: relative or absolute; a URL of a store, if that is allowed.
            listed: the state that it must still have.

        Raises:
            RecordError: it is missing, too large, not a file, or not in the input.
            ChangedError: it has changed since it was listed.
            OSError: the disk or the store fails.
        """
        if "://" in path:
            if not self._outside:
                _refuse_outside(path)
            return self._stored(Location.parse(path), path, listed)
        if self._base.is_local:
            try:
                return self._local(path, listed)
            except RecordError as e:
                if e.kind == "file-missing" and "\\" in path:  # from a manifest written on Windows
                    return self._local(path.replace("\\", "/"), listed)
                raise
        target = _normal(f"{self._base.path.rstrip('/')}/{path}")
        if not self._outside and not _within(target, self._root):
            _refuse_outside(path)
        return self._stored(replace(self._base, path=target, version=""), path, listed)

    def _local(self, path: str, listed: Listed | None) -> bytes:
        if "\0" in path:
            raise RecordError(f"{_short(path)!r} is not a path", "path-invalid")
        real = os.path.realpath(os.path.join(self._base.path, path))  # noqa: PTH118  (pathlib drops "a/.")
        if not self._outside and not _within(real, self._root):
            _refuse_outside(path)
        try:
            # Without blocking: opening a pipe waits for its writer. No link: it was resolved.
            handle = os.open(real, _HOW)
        except (FileNotFoundError, NotADirectoryError) as e:
            raise RecordError(f"{_short(path)}: not found", "file-missing") from e
        except OSError as e:
            if e.errno in (*_NO_PATH, errno.ENXIO):  # the last: a pipe or socket
                raise RecordError(f"{_short(path)}: {e.strerror}", "path-invalid") from e
            raise
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            os.close(handle)
            raise RecordError(f"{_short(path)}: not a regular file", "path-invalid")
        with open(handle, "rb", buffering=0) as file:  # noqa: PTH123  (a handle has no path)
            self._check(path, Listed(about.st_size, about.st_mtime_ns), listed)
            data = bytearray()
            while len(data) <= self._max_bytes and (more := file.read(self._max_bytes + 1 - len(data))):
                data += more
        if len(data) > self._max_bytes or (listed and len(data) != listed.size):
            raise ChangedError(real, f"{len(data)} bytes, was {about.st_size}")
        return bytes(data)

    def _stored(self, place: Location, path: str, listed: Listed | None) -> bytes:
        info = place.info()
        if info.type != pafs.FileType.File:
            raise RecordError(f"{_short(path)}: not found", "file-missing")
        self._check(path, Listed(info.size or 0, info.mtime_ns or 0), listed)
        return place.read_bytes()

    def _check(self, path: str, now: Listed, listed: Listed | None) -> None:
        if listed and now != listed:
            raise ChangedError(path, "another file than was listed")
        if now.size > self._max_bytes:
            reason = f"{_short(path)} has {now.size} bytes, more than limits.member_bytes={self._max_bytes}"
            raise RecordError(reason, "member-too-large")


def _within(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root.rstrip('/')}/")


def _normal(path: str) -> str:
    """A path of a store without "." and ".."; a leading scheme stays."""
    scheme, mark, rest = path.rpartition("://")
    parts: list[str] = []
    for part in rest.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return f"{scheme}{mark}{'/'.join(parts)}" if mark or not rest.startswith("/") else f"/{'/'.join(parts)}"


def _refuse_outside(path: str) -> NoReturn:
    reason = f"{_short(path)} is outside the input; to read it, set files.allow_outside=true"
    raise RecordError(reason, "path-outside")


def _short(path: str) -> str:
    return path if len(path) <= _SHOWN else f"{path[:_SHOWN]}…"
