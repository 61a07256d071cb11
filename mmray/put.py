"""Writes a file or an object of a store atomically."""

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

TEMPORARY = ".tmp-"  # prefix of temporary files; readers of a directory skip them
# Filesystems of pyarrow that show an object only when it is complete, and the old one until then.
_ATOMIC = ("s3", "gcs")


def put_file(target: Path, data: bytes | memoryview | pa.Buffer) -> None:
    """Write a local file atomically, even through a crash.

    A temporary file is flushed to the disk, then renamed, then the directory is flushed so that the renaming
    survives, too.

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
    """Write an object; until the last byte the old one remains, or none.

    A PUT to S3, GCS or Azure is atomic when it is finished. But pyarrow also finishes it when an exception
    ends the writing: a Ctrl-C between opening and writing would publish an empty object. So a separate
    thread, which gets no signals, does it; an upload whose process dies is never finished. Large objects are
    sent in pieces, directly from the buffer: 10 MB each to S3 (10,000 at most: 100 GB), 8 MiB to Azure
    (50,000: 390 GiB), one resumable stream to GCS.

    Other stores may show a file while it is written. There a temporary file is renamed; not every store can
    rename over a file, so for a moment there is neither the old one nor the new one.

    Args:
        filesystem: of the store.
        root: URL of its root, with its options.
        path: of the object, on the filesystem.
        data: its content.

    Raises:
        UsageError: there is no such bucket, or the client that writes there is not installed.
        Exception: the store fails; from its client.
    """
    act = {**dict.fromkeys(_ATOMIC, _write), azure.TYPE_NAME: _to_azure}.get(filesystem.type_name, _by_move)
    with ThreadPoolExecutor(1) as signal_free:
        try:
            signal_free.submit(act, filesystem, root, path, data).result()
        except OSError as e:
            missing = isinstance(e, FileNotFoundError) or "NO_SUCH_BUCKET" in str(e)
            if act is _by_move or not missing:
                raise
            if "UploadChunk" in str(e):  # of Google's client: the upload that it resumed is gone
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
