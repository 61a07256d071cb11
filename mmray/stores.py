"""Requests to stores that pyarrow lacks, through each store's own client, if it is installed.

Creating an object only if it does not exist, with the store deciding between concurrent requests:
If-None-Match: * on S3 and Azure, ifGenerationMatch=0 on Google Cloud Storage. And listing objects with their
versions, on S3 and Google Cloud Storage.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs

from mmray import azure, gcs, s3
from mmray.errors import CannotError
from mmray.remote import version_in


def create(filesystem: pafs.FileSystem, url: str, path: str, data: bytes) -> bool:
    """Create an object if there is none of that name.

    Args:
        filesystem: of the store.
        url: root of it, with its options.
        path: of the object, on the filesystem.
        data: its content.

    Returns:
        Whether it was created; after a lost answer this is False although it was.

    Raises:
        CannotError: not supported; nothing was done.
        Exception: the store fails; from its client.
    """
    by_store = {s3.TYPE_NAME: s3.create, gcs.TYPE_NAME: _on_gcs, azure.TYPE_NAME: _on_azure}
    if filesystem.type_name not in by_store:
        raise CannotError(f"{filesystem.type_name} has none")
    bucket, _, name = path.partition("/")
    try:
        return by_store[filesystem.type_name](filesystem, url, bucket, name, data)
    except ImportError as e:
        raise CannotError(str(e)) from e


class Listed(NamedTuple):
    """An object in a listing."""

    path: str  # on the filesystem
    size: int  # bytes
    version: str  # as `mmray.remote.version_in` gives it for this object


def listed(filesystem: pafs.FileSystem, url: str, path: str) -> Iterator[Listed]:
    """Each object with this prefix, with the version that pyarrow's listing lacks; 1,000 in each request.

    Args:
        filesystem: of the store.
        url: root of it, with its options.
        path: on the filesystem; a bucket and a slash at least.

    Raises:
        CannotError: this store, or this installation, cannot list them.
        Exception: the store fails; from its client.
    """
    bucket, _, prefix = path.partition("/")
    try:
        if filesystem.type_name == s3.TYPE_NAME:
            objects = s3.listed(filesystem, url, bucket, prefix)
            name, size = "Key", "Size"
        elif filesystem.type_name == gcs.TYPE_NAME:
            objects = gcs.listed(url, bucket, prefix)
            name, size = "name", "size"
        else:
            raise CannotError(f"{filesystem.type_name} has none")
        for about in objects:
            yield Listed(f"{bucket}/{about[name]}", int(about[size]), version_in(about))
    except ImportError as e:
        raise CannotError(str(e)) from e
    except gcs.AnswerError as e:
        if e.status_code in s3.CANNOT:
            raise CannotError(str(e)) from e
        raise


def _on_gcs(_: pafs.FileSystem, url: str, bucket: str, name: str, data: bytes) -> bool:
    try:
        return gcs.create(url, bucket, name, data)
    except gcs.AnswerError as e:
        if e.status_code in s3.CANNOT:
            raise CannotError(str(e)) from e
        raise


def _on_azure(_: pafs.FileSystem, url: str, bucket: str, name: str, data: bytes) -> bool:
    from azure.core.exceptions import HttpResponseError

    container = azure.account_of(url).container(bucket)
    try:
        azure.upload(container, name, pa.py_buffer(data), replaces=False)
    except FileExistsError:
        return False
    except HttpResponseError as e:
        if e.status_code in s3.CANNOT:
            raise CannotError(str(e)) from e
        raise
    return True
