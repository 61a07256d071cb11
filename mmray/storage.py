"""Locations: paths and URLs, and atomic writing of files.

Operations on stores are retried after temporary failures (see mmray.remote); local files are opened, read and
written directly.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from mmray import azure, gcs, stores
from mmray.errors import CannotError, InputError
from mmray.put import TEMPORARY, put, put_file
from mmray.remote import RemoteFile, StoreError, retrying, version_in
from mmray.urls import Driver, open_url

T = TypeVar("T")


def cache_directory() -> Path:
    """This machine's cache directory: $MMRAY_CACHE, or else ~/.cache/mmray."""
    return Path(os.environ.get("MMRAY_CACHE") or "~/.cache/mmray").expanduser().absolute()


class Glance(NamedTuple):
    """Metadata and ends of a file of a store."""

    size: int
    version: str  # changes with its content, mostly its ETag; "" if the store has none
    head: bytes
    tail: bytes


@dataclass(frozen=True)
class Location:
    """A directory or file on some filesystem, by an absolute path."""

    filesystem: pafs.FileSystem
    path: str
    prefix: str = ""  # of its URL, instead of the path's first `skip` characters; none for a local path
    skip: int = 0
    query: str = ""  # of its URL: "?" and options of the filesystem
    version: str = ""  # of a store: the version that a file must have when it is opened for reading; "": any

    @classmethod
    def parse(cls, place: str | Path) -> Location:
        """Read a path (made absolute here, since workers have other working directories) or a URL.

        A URL may end in options of pyarrow's filesystem, as ``?endpoint_override=host:9000&scheme=http`` for
        another store that speaks S3; AWS_ENDPOINT_URL in the environment does the same. The region
        of a bucket is requested from S3, once in a process, unless ``?region=`` is given: pyarrow ignores
        AWS_REGION here.

        Raises:
            UsageError: a URL with an unknown scheme, without its driver, or with a secret.
            OSError: the store cannot be reached.
        """
        text = str(place)
        if "://" in text:
            return cls(*open_url(text))
        return cls(pafs.LocalFileSystem(), str(Path(text).expanduser().absolute()))

    def __truediv__(self, name: str) -> Location:
        return replace(self, path=f"{self.path.rstrip('/')}/{name}", version="")

    def __str__(self) -> str:
        return self.url

    @property
    def url(self) -> str:
        """The text from which `parse` makes the same location, also in other processes."""
        return f"{self.prefix}{self.path[self.skip :]}{self.query}"

    def beside(self, suffix: str) -> Location:
        """The same location with a suffix added to its name."""
        return replace(self, path=self.path + suffix, version="")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> Location:
        return replace(self, path=self.path.rpartition("/")[0])

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def info(self) -> pafs.FileInfo:
        """Type and size; the type is NotFound if there is nothing."""
        return self._try(lambda: self.filesystem.get_file_info(self.path))

    def infos(self, paths: Sequence[str]) -> list[pafs.FileInfo]:
        """Type, size and time of several paths on this filesystem; the type may be NotFound."""
        found: list[pafs.FileInfo] = self._try(lambda: self.filesystem.get_file_info(list(paths)))
        return found

    def entries(self) -> list[pafs.FileInfo]:
        """Files and directories in a directory."""
        return self._below(recursive=False)

    def exists(self) -> bool:
        return bool(self.info().type != pafs.FileType.NotFound)

    def files(self, *, recursive: bool = False) -> list[pafs.FileInfo]:
        """Files below a directory, sorted by path, without temporary ones."""
        return [f for f in self._list(recursive) if not f.base_name.startswith(TEMPORARY)]

    def leftovers(self) -> list[Location]:
        """Temporary files in a directory, of active or dead writers."""
        return [self / f.base_name for f in self._list(False) if f.base_name.startswith(TEMPORARY)]

    def _list(self, recursive: bool) -> list[pafs.FileInfo]:
        found = self._below(recursive=recursive)
        files = [f for f in found if f.type == pafs.FileType.File]
        if unsized := [f.path for f in files if f.size is None]:  # a web server lists only names
            sized = {f.path: f for f in self._try(lambda: self.filesystem.get_file_info(unsized))}
            files = [sized.get(f.path, f) for f in files]
        return sorted(files, key=lambda f: f.path)

    def _below(self, *, recursive: bool) -> list[pafs.FileInfo]:
        """All that is below a directory.

        Raises:
            InputError: a name there is not UTF-8, which Arrow does not support.
        """
        selector = pafs.FileSelector(self.path, recursive=recursive, allow_not_found=True)
        try:
            found: list[pafs.FileInfo] = self._try(lambda: self.filesystem.get_file_info(selector))
            for info in found:
                _ = info.path  # decoded on access
        except UnicodeDecodeError as e:
            raise InputError(
                f"{self}: has a file whose name is not UTF-8: {bytes(e.object)!r}; rename it"
            ) from e
        return found

    def make_directory(self) -> None:
        self._try(lambda: self.filesystem.create_dir(self.path, recursive=True))

    def open_input(self) -> pa.NativeFile | RemoteFile:
        """Open a file for reading, seekable; on a store it is resilient and reads ahead (see `RemoteFile`).

        Raises:
            ChangedError: it does not have this location's version.
            OSError: it cannot be opened.
        """
        if self.is_local:
            return self.filesystem.open_input_file(self.path)
        return RemoteFile(self._open, self.url, self.version, self._version_of)

    def _open(self) -> pa.NativeFile | gcs.Blob:
        if self.filesystem.type_name == gcs.TYPE_NAME:
            return gcs.Blob(self._root, self.path)
        return self.filesystem.open_input_file(self.path)

    def current_version(self) -> str:
        """A version that changes with the content of a store's file; "" if the store has none."""
        return self._try(self._version)

    def listed(self, most: int) -> dict[str, stores.Listed]:
        """Objects of a store whose paths begin with this one, with their versions, by path.

        Empty if this store, or its client here, cannot list versions: `current_version` gives them as well.

        Args:
            most: objects at most, in the order of their names.
        """
        act = partial(stores.listed, self.filesystem, self._root, self.path)
        try:
            return self._try(lambda: {one.path: one for one in islice(act(), most)})
        except (CannotError, StoreError):
            return {}

    def glance(self, nbytes: int) -> Glance:
        """Read the ends of a store's file: three requests, or two for a file of at most twice those bytes.

        Args:
            nbytes: of its head, and of its tail.

        Raises:
            OSError: it cannot be opened.
        """
        return self._try(lambda: self._glance(nbytes))

    @property
    def _driver(self) -> Driver | None:
        handler = getattr(self.filesystem, "handler", None)
        return handler if isinstance(handler, Driver) else None

    def _version(self) -> str:
        if self._driver:
            return version_in(self._driver.about(self.path))
        with self._open() as stream:
            return version_in(stream.metadata() or {})

    def _version_of(self, stream: pa.NativeFile) -> str:
        """Version of an open file. A driver of fsspec must be asked again, so only if necessary."""
        if self._driver:
            return version_in(self._driver.about(self.path)) if self.version else ""
        return version_in(stream.metadata() or {})

    def _glance(self, nbytes: int) -> Glance:
        driver = self._driver
        if driver:
            about = driver.about(self.path)
            size, version = int(about["size"] or 0), version_in(about)
            head, tail = self._ends(size, nbytes, partial(driver.read_span, self.path))
            return Glance(size, version, head, tail)
        with self._open() as stream:
            size, version = stream.size(), version_in(stream.metadata() or {})
            head, tail = self._ends(size, nbytes, lambda start, stop: stream.read_at(stop - start, start))
            return Glance(size, version, head, tail)

    def _ends(self, size: int, nbytes: int, read: Callable[[int, int], bytes]) -> tuple[bytes, bytes]:
        if size <= 2 * nbytes:
            whole = read(0, size) if size else b""
            return whole[:nbytes], whole[nbytes:]
        return read(0, nbytes), read(size - nbytes, size)

    def read_bytes(self) -> bytes:
        with self.open_input() as file:
            return bytes(file.read())

    def delete(self) -> None:
        """Delete a file, if it exists."""
        with suppress(FileNotFoundError):
            self._try(lambda: self.filesystem.delete_file(self.path))

    def move_to(self, target: Location) -> None:
        """Move a file within its filesystem, replacing an existing one."""
        if self.filesystem.type_name == azure.TYPE_NAME:  # which can move only with hierarchical names
            target.write_atomically(self.read_bytes())
            self.delete()
        else:
            self._try(lambda: self.filesystem.move(self.path, target.path))

    def write_atomically(self, data: bytes | memoryview | pa.Buffer) -> None:
        """Write a file atomically, even through a crash; see `mmray.put`."""
        if not self.is_local:
            content = pa.py_buffer(data)
            self._try(lambda: put(self.filesystem, self._root, self.path, content))
            return
        put_file(Path(self.path), data)

    def create(self, data: bytes) -> bool | None:
        """Create a small object of a store if there is none; of several concurrent writers, one succeeds.

        Args:
            data: unique to this writer.

        Returns:
            Whether it is ours; None: this store or this installation does not support it, nothing was done.
        """

        def act() -> bool:
            if stores.create(self.filesystem, self._root, self.path, data):
                return True
            try:  # an answer may have been lost, and the object may be ours
                return self.read_bytes() == data
            except FileNotFoundError:
                return False

        try:
            return self._try(act)
        except CannotError:
            return None

    @property
    def _root(self) -> str:
        """URL of the filesystem, with its options."""
        return f"{self.prefix}{self.query}"

    def _try(self, act: Callable[[], T]) -> T:
        return act() if self.is_local else retrying(act, self.url)
