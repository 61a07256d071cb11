"""Where bytes lie: paths and URLs through pyarrow.fs, and the one way a file comes into being.

Any URL that `pyarrow.fs.FileSystem.from_uri` knows works (file, s3, gs, abfs, hdfs); a plain path is local.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from mmray.errors import UsageError

TEMPORARY = ".tmp-"  # prefix of files that are not yet in place; readers of a directory skip them


@dataclass(frozen=True)
class Location:
    """A directory or file on some filesystem, by an absolute path."""

    filesystem: pafs.FileSystem
    path: str
    scheme: str = ""  # of the URL that it came from; none for a local path
    query: str = ""  # of that URL: options of the filesystem, such as an endpoint

    @classmethod
    def parse(cls, place: str | Path) -> Location:
        """Read a path (made absolute here, since workers have other working directories) or a URL.

        Raises:
            UsageError: a URL whose scheme is not known.
        """
        text = str(place)
        if "://" not in text:
            return cls(pafs.LocalFileSystem(), str(Path(text).expanduser().absolute()))
        try:
            filesystem, path = pafs.FileSystem.from_uri(text)
        except pa.ArrowException as e:
            raise UsageError(f"{text}: not a path or URL that can be opened: {e}") from e
        if isinstance(filesystem, pafs.LocalFileSystem):
            return cls(filesystem, path)
        return cls(filesystem, path, text.partition("://")[0], text.partition("?")[2])

    def __truediv__(self, name: str) -> Location:
        return replace(self, path=f"{self.path.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.url

    @property
    def url(self) -> str:
        """What `parse` makes this of again."""
        if self.is_local:
            return self.path
        return f"{self.scheme}://{self.path}" + (f"?{self.query}" if self.query else "")

    def beside(self, suffix: str) -> Location:
        """The neighbour whose name has this suffix added."""
        return replace(self, path=self.path + suffix)

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def info(self) -> pafs.FileInfo:
        """Type and size; a type of NotFound where there is nothing."""
        return self.filesystem.get_file_info(self.path)

    def exists(self) -> bool:
        return bool(self.info().type != pafs.FileType.NotFound)

    def files(self, *, recursive: bool = False) -> list[pafs.FileInfo]:
        """Files below a directory, sorted by path, without those that are not yet in place."""
        return [f for f in self._list(recursive) if not f.base_name.startswith(TEMPORARY)]

    def leftovers(self) -> list[Location]:
        """Temporary files in a directory, of writers that are busy or died."""
        return [self / f.base_name for f in self._list(False) if f.base_name.startswith(TEMPORARY)]

    def _list(self, recursive: bool) -> list[pafs.FileInfo]:
        selector = pafs.FileSelector(self.path, recursive=recursive, allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        return sorted((f for f in found if f.type == pafs.FileType.File), key=lambda f: f.path)

    def make_directory(self) -> None:
        self.filesystem.create_dir(self.path, recursive=True)

    def read_bytes(self) -> bytes:
        with self.filesystem.open_input_stream(self.path) as stream:
            return bytes(stream.read())

    def delete(self) -> None:
        """Delete a file, if it is there."""
        if self.exists():
            self.filesystem.delete_file(self.path)

    def write_atomically(self, data: bytes | memoryview | pa.Buffer) -> None:
        """Make the file appear whole or not at all, even through a crash: write, flush, replace.

        An object store's PUT is atomic by itself; on a local disk a temporary neighbour is flushed to the
        disk, then moved into place, then the directory is flushed so that the move survives too.
        """
        if not self.is_local:
            with self.filesystem.open_output_stream(self.path) as stream:
                stream.write(data)
            return
        target = Path(self.path)
        temporary = target.with_name(f"{TEMPORARY}{os.getpid()}-{target.name}")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _flush_directory(target.parent)


def _flush_directory(path: Path) -> None:
    if os.name != "posix":  # a directory cannot be opened elsewhere
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
