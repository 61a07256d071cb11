"""How a file or an object of a store comes into being: whole or not at all."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.fs as pafs

from mmray import azure
from mmray.errors import UsageError

TEMPORARY = ".tmp-"  # prefix of files that are not yet in place; readers of a directory skip them
# Filesystems of pyarrow that show an object when it is whole, and the old one until then.
_ATOMIC = ("s3", "gcs")


def put_file(target: Path, data: bytes | memoryview | pa.Buffer) -> None:
    """Write a local file, also through a crash.

    A temporary neighbour is flushed to the disk, then moved into place, then the directory is flushed so that
    the move survives too.

    Raises:
        OSError: it cannot be written.
    """
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
    if os.name != "posix":  # a directory cannot be opened elsewhere
        return
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def put(filesystem: pafs.FileSystem, root: str, path: str, data: pa.Buffer) -> None:
    """Write an object; from the first to the last byte the old one stays, or none.

    A PUT to S3, GCS or Azure is atomic by itself, once it is finished. But pyarrow finishes it also when an
    exception ends the writing: a Ctrl-C between opening and writing would publish an empty object. So a
    thread of its own does it, which gets no signals; an upload whose process dies is never finished. Large
    objects go in pieces, straight from the buffer: 10 MB each to S3 (10,000 at most: 100 GB), 8 MiB to Azure
    (50,000: 390 GiB), one resumable stream to GCS.

    Other stores may show a file while it is written. There a temporary neighbour is moved into place; not
    every store moves over a file, so for a moment there is neither the old one nor the new one.

    Args:
        filesystem: of the store.
        root: URL of its root, with its options.
        path: of the object, on the filesystem.
        data: what it will hold.

    Raises:
        UsageError: there is no such bucket, or the client that writes there is not installed.
        Exception: the store fails, as its client says it.
    """
    act = {**dict.fromkeys(_ATOMIC, _write), azure.TYPE_NAME: _to_azure}.get(filesystem.type_name, _by_move)
    with ThreadPoolExecutor(1) as signal_free:
        try:
            signal_free.submit(act, filesystem, root, path, data).result()
        except OSError as e:
            missing = isinstance(e, FileNotFoundError) or "NO_SUCH_BUCKET" in str(e)
            if act is _by_move or not missing:
                raise
            if "UploadChunk" in str(e):  # of Google's client: the upload that it went on with is gone
                raise ConnectionError("an upload was lost in the middle") from e
            bucket = path.partition("/")[0]
            raise UsageError(f"{root}: there is no bucket {bucket!r}; make it, or check its name") from e


def _write(filesystem: pafs.FileSystem, _: str, path: str, data: pa.Buffer) -> None:
    with filesystem.open_output_stream(path, compression=None) as stream:
        stream.write(data)


def _to_azure(_: pafs.FileSystem, root: str, path: str, data: pa.Buffer) -> None:
    container, _slash, name = path.partition("/")
    try:
        azure.upload(azure.account_of(root).container(container), name, data, replaces=True)
    except ImportError as e:
        raise UsageError(f"{root}: writing there needs Azure's client: pip install 'mmray[azure]'") from e


def _by_move(filesystem: pafs.FileSystem, root: str, path: str, data: pa.Buffer) -> None:
    folder, _, name = path.rpartition("/")
    beside = f"{folder}/{TEMPORARY}{uuid4().hex}-{name}"
    _write(filesystem, root, beside, data)
    with suppress(FileNotFoundError):
        filesystem.delete_file(path)
    filesystem.move(beside, path)
