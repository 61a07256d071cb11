"""Requests to S3 that pyarrow's client lacks: create an object only if it does not exist, list ETags.

Needs boto3 (the extra s3), which takes credentials from the same places as pyarrow's client.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pyarrow.fs as pafs

from mmray.errors import CannotError

if TYPE_CHECKING:
    from botocore.client import BaseClient

TYPE_NAME = "s3"  # of pyarrow's filesystem
#: Status codes: the credentials are not accepted, or the store has no such request.
CANNOT = (400, 401, 403, 405, 501)
_EXISTS = 412
_TIMEOUT_S = 30


def create(filesystem: pafs.FileSystem, root: str, bucket: str, name: str, data: bytes) -> bool:
    """Create an object if there is none of that name (If-None-Match: *); returns whether it was created.

    Raises:
        CannotError: the store does not do it, or not for these credentials.
        ImportError: boto3 is not installed.
    """
    from botocore.exceptions import ClientError

    try:
        _client(filesystem.region, _endpoint(root)).put_object(
            Bucket=bucket, Key=name, Body=data, IfNoneMatch="*"
        )
    except ClientError as e:
        status = _status(e)
        if status in CANNOT:
            raise CannotError(str(e)) from e
        if status != _EXISTS:
            raise
        return False
    return True


def listed(filesystem: pafs.FileSystem, root: str, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    """The listing of each object under a prefix, 1,000 in each request: Key, Size, ETag and more.

    Raises:
        CannotError: the store does not do it, or not for these credentials.
        ImportError: boto3 is not installed.
    """
    from botocore.exceptions import ClientError

    pages = _client(filesystem.region, _endpoint(root)).get_paginator("list_objects_v2")
    try:
        for page in pages.paginate(Bucket=bucket, Prefix=prefix):
            yield from page.get("Contents", ())
    except ClientError as e:
        if _status(e) in CANNOT:
            raise CannotError(str(e)) from e
        raise


def _status(error: Exception) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])  # type: ignore[attr-defined]


def _endpoint(url: str) -> str | None:
    options = parse_qs(url.partition("?")[2])
    if "endpoint_override" not in options:
        return None
    return f"{options.get('scheme', ['https'])[0]}://{options['endpoint_override'][0]}"


@lru_cache(maxsize=16)
def _client(region: str, endpoint: str | None) -> BaseClient:
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    session = boto3.session.Session()
    config = Config(
        retries={"total_max_attempts": 1},
        connect_timeout=10,
        read_timeout=_TIMEOUT_S,
        signature_version=None if session.get_credentials() else UNSIGNED,  # as pyarrow does: public buckets
    )
    return session.client("s3", region_name=region, endpoint_url=endpoint, config=config)
