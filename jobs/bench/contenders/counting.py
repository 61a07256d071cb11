"""A local disk that records reads, one line for each opened file."""

import io
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem


class CountingFileSystem(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The local disk, with a record of reads."""

    def __init__(self, account: str) -> None:
        super().__init__()
        self._account = account

    def open(self, path: str, *_: object, **__: object) -> io.FileIO:
        """Open a file for reading."""
        return CountingFile(path, self._account)


class CountingFile(io.FileIO):
    """Writes how much of it was read when it is closed."""

    def __init__(self, path: str, account: str) -> None:
        super().__init__(path)
        self._account = account
        self._count = 0

    def read(self, size: int | None = -1, /) -> bytes | None:  # type: ignore[override]  # as FileIO's own
        data = super().read(-1 if size is None else size)
        self._count += len(data or b"")
        return data

    def close(self) -> None:
        if not self.closed:
            with Path(self._account).open("a") as account:
                account.write(f"{self._count}\n")
        super().close()
