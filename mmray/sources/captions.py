"""Captions of an LMDB of images: `<name>.captions.tsv`, lines of a key, a tab and its caption.

The lines are in the order of their keys' bytes (`LC_ALL=C sort`), like the entries of an LMDB, so that both
are read in parallel and neither is held in memory. A file that is not sorted, or has other lines, is refused,
because captions would be lost silently.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmray.errors import InputError

_SUFFIX = ".captions.tsv"
KEY_BYTES = 511  # LMDB's own limit: a longer key has no entry


class Captions:
    """A sorted, memory-mapped file of captions; see `opened`."""

    def __init__(self, path: Path, data: mmap.mmap | bytes) -> None:
        self._path = path
        self._data = data
        self._at = 0  # start of the next line
        self._passed: bytes | None = None  # key of the previous line, if it was read

    def seek(self, key: bytes) -> None:
        """Seek to the first line with this key or a later one."""
        low, high = 0, len(self._data)
        while low < high:
            start = self._data.rfind(b"\n", low, (low + high) // 2) + 1 or low
            found, _, end = self._line(start)
            if found < key:
                low = end
            else:
                high = start
        self._at, self._passed = low, None

    def find(self, key: bytes) -> range | None:
        """Byte range of a key's caption; fast if keys are requested in order.

        Raises:
            InputError: the lines up to there are not sorted, or not of this kind.
        """
        if self._passed is not None and key <= self._passed:
            self.seek(key)
        while self._at < len(self._data):
            found, caption, end = self._line(self._at)
            if self._passed is not None and found <= self._passed:
                raise InputError(
                    f"{self._path}: byte {self._at}: key {found!r} comes after {self._passed!r}; keys must "
                    f"differ and be sorted: LC_ALL=C sort -o {self._path.name} {self._path.name}"
                )
            if found > key:
                break
            self._at, self._passed = end, found
            if found == key:
                return caption
        return None

    def read(self, caption: range) -> bytes:
        return self._data[caption.start : caption.stop]

    def _line(self, start: int) -> tuple[bytes, range, int]:
        """Key, caption and end of the line that begins at a byte."""
        end = self._data.find(b"\n", start)
        stop = len(self._data) if end < 0 else end
        tab = self._data.find(b"\t", start, min(stop, start + KEY_BYTES + 1))
        if tab <= start:
            raise InputError(
                f"{self._path}: byte {start}: not a line of a key (of at most {KEY_BYTES} bytes), a tab and "
                "a caption; correct or delete that line"
            )
        return self._data[start:tab], range(tab + 1, stop), min(stop + 1, len(self._data))


def captions_beside(path: Path) -> Path:
    """Path of an LMDB's captions, if it has any."""
    return path.with_name(path.name + _SUFFIX)


@contextmanager
def opened(path: Path) -> Iterator[Captions]:
    """The captions in a file; none if it does not exist.

    Raises:
        OSError: it cannot be read.
    """
    if not path.exists() or not path.stat().st_size:  # cannot be mapped
        yield Captions(path, b"")
    else:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield Captions(path, data)
