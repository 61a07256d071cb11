"""Create an object only where there is none: the one thing that a store decides between two who ask at once.

pyarrow has no such request, so it goes through each store's own client, where that is installed (the extras
s3, gcs and azure): If-None-Match: * on S3 and Azure, ifGenerationMatch=0 on Google Cloud Storage.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import pyarrow as pa
import pyarrow.fs as pafs

from mmray import azure, gcs
from mmray.errors import MmrayError

if TYPE_CHECKING:
    from botocore.client import BaseClient

_CANNOT = (400, 401, 403, 405, 501)  # the client has no credentials that count, or the store no such request
_EXISTS = 412
_TIMEOUT_S = 30


class CannotError(MmrayError):
    """This store, or this installation, has no way to do it."""


def create(filesystem: pafs.FileSystem, url: str, path: str, data: bytes) -> bool:
    """Make an object, if there is none of that name.

    Args:
        filesystem: of the store.
        url: root of it, with its options.
        path: of the object, on the filesystem.
        data: what it holds.

    Returns:
        Whether it was made; after an answer that was lost this is False although it was.

    Raises:
        CannotError: it cannot be said; nothing was done.
        Exception: the store fails, as its client says it.
    """
    by_store = {"s3": _on_s3, gcs.TYPE_NAME: _on_gcs, azure.TYPE_NAME: _on_azure}
    if filesystem.type_name not in by_store:
        raise CannotError(f"{filesystem.type_name} has none")
    bucket, _, name = path.partition("/")
    try:
        return by_store[filesystem.type_name](filesystem, url, bucket, name, data)
    except ImportError as e:
        raise CannotError(str(e)) from e


def _endpoint(url: str) -> str | None:
    options = parse_qs(url.partition("?")[2])
    if "endpoint_override" not in options:
        return None
    return f"{options.get('scheme', ['https'])[0]}://{options['endpoint_override'][0]}"


def _on_s3(filesystem: pafs.FileSystem, url: str, bucket: str, name: str, data: bytes) -> bool:
    from botocore.exceptions import ClientError, NoCredentialsError

    client = _s3_client(filesystem.region, _endpoint(url))
    try:
        client.put_object(Bucket=bucket, Key=name, Body=data, IfNoneMatch="*")
    except NoCredentialsError as e:
        raise CannotError(str(e)) from e
    except ClientError as e:
        status = e.response["ResponseMetadata"]["HTTPStatusCode"]
        if status in _CANNOT:
            raise CannotError(str(e)) from e
        if status != _EXISTS:
            raise
        return False
    return True


@lru_cache(maxsize=16)
def _s3_client(region: str, endpoint: str | None) -> BaseClient:
    import boto3
    from botocore.config import Config

    config = Config(retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=_TIMEOUT_S)
    return boto3.session.Session().client("s3", region_name=region, endpoint_url=endpoint, config=config)


def _on_gcs(_: pafs.FileSystem, url: str, bucket: str, name: str, data: bytes) -> bool:
    try:
        return gcs.create(url, bucket, name, data)
    except gcs.AnswerError as e:
        if e.status_code in _CANNOT:
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
        if e.status_code in _CANNOT:
            raise CannotError(str(e)) from e
        raise
    return True
