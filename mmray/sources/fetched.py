"""Cache of fetched files on this machine's disk: by URL, bounded, shared by all workers and runs.

An entry is a digest and the bytes, written to a temporary file and renamed. The least recently used are
deleted.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from threading import Lock

from mmray.put import TEMPORARY

_DIGEST_BYTES = 16
_SCAN_SHARE = 1 / 64  # share of the bound that a process writes before it checks all entries again
_KEPT_SHARE = 0.9
_LARGEST_SHARE = 1 / 4


class Fetched:
    """A cache of bodies.

    Args:
        most_bytes: of all entries; several processes may exceed it for a while. 0: no cache.
        folder: of the entries.
    """

    def __init__(self, most_bytes: int, folder: Path) -> None:
        self._most = most_bytes
        self._folder = folder
        self._written = most_bytes  # so that the first write checks the existing entries
        self._lock = Lock()

    def get(self, url: str, max_bytes: int) -> bytes | None:
        """The body of a URL; None if it is not cached, too large, or damaged."""
        path = self._path(url)
        if not self._most:
            return None
        try:
            with path.open("rb") as file:
                digest = file.read(_DIGEST_BYTES)
                body = file.read(max_bytes + 1)
            if len(body) > max_bytes:
                return None
            if _digest(body) != digest:
                path.unlink(missing_ok=True)
                return None
            os.utime(path)
        except OSError:  # gone, or the cache cannot be read: the URL is fetched
            return None
        return body

    def put(self, url: str, body: bytes) -> None:
        """Store a body, if possible: a full disk affects the cache, not the record."""
        if len(body) > self._most * _LARGEST_SHARE:
            return
        path = self._path(url)
        beside = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with beside.open("wb") as file:
                file.write(_digest(body))
                file.write(body)
            beside.replace(path)
        except OSError:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            return
        with self._lock:
            self._written += len(body)
            if self._written > self._most * _SCAN_SHARE:
                self._written = 0
                self._shrink()

    def _shrink(self) -> None:
        """Delete the least recently used entries if there are too many bytes."""
        entries = []
        for path in self._folder.glob("*/*"):
            with suppress(OSError):  # another process may delete, too
                about = path.stat()
                entries.append((about.st_mtime_ns, about.st_size, path))
        total = sum(size for _, size, _ in entries)
        if total <= self._most:
            return
        for _, size, path in sorted(entries):
            if total <= self._most * _KEPT_SHARE:
                break
            with suppress(OSError):
                path.unlink()
            total -= size

    def _path(self, url: str) -> Path:
        name = blake2b(url.encode(errors="surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()
        return self._folder / name[:2] / name


@lru_cache(maxsize=4)
def shared(most_bytes: int, folder: Path) -> Fetched:
    """The cache of this process: it counts what it wrote."""
    return Fetched(most_bytes, folder)


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=_DIGEST_BYTES).digest()
