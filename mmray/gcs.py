"""Objects of Google Cloud Storage, read with its JSON API.

pyarrow's file requests the whole object each time it is opened, and holds the GIL until the store answers: a
stalled store would stop every thread, including the lease's heartbeat. Listing, writing and deleting use
pyarrow.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, quote
from uuid import uuid4

from mmray.errors import UsageError

if TYPE_CHECKING:
    from requests import Response, Session

TYPE_NAME = "gcs"  # of pyarrow's filesystem
_HOST = "https://storage.googleapis.com"
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
_TIMEOUT_S = (10, 30)  # to connect, and between two packets
_STEP_BYTES = 256 << 10


class AnswerError(OSError):
    """The store answered with an error."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"Google Cloud Storage answered {status} {reason}")
        self.status_code = status


class Blob:
    """An object, with the interface that `mmray.remote.RemoteFile` uses. Each read is one request."""

    def __init__(self, root: str, path: str) -> None:
        """Request its size and version.

        Args:
            root: URL of the filesystem, with its options.
            path: bucket and name.

        Raises:
            FileNotFoundError: there is none.
        """
        bucket, _, name = path.partition("/")
        self._session = _session_of(root)
        self._place = f"b/{quote(bucket, safe='')}/o/{quote(name, safe='')}"
        self._host = _host(root)
        answer = self._session.get(f"{self._host}/storage/v1/{self._place}", timeout=_TIMEOUT_S)
        self._about: dict[str, Any] = _checked(answer, path).json()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def size(self) -> int:
        return int(self._about["size"])

    def metadata(self) -> dict[str, Any]:
        return self._about

    def read_at(self, nbytes: int, offset: int) -> bytes:
        """Bytes from an offset on; fewer if the answer is truncated. Threads may share it."""
        # As it is stored: else the store would decompress compressed objects.
        part = {"Range": f"bytes={offset}-{offset + nbytes - 1}", "Accept-Encoding": "gzip"}
        url = f"{self._host}/download/storage/v1/{self._place}?alt=media"
        found = bytearray()
        with self._session.get(url, headers=part, stream=True, timeout=_TIMEOUT_S) as answer:
            try:
                for piece in _checked(answer, self._place).raw.stream(_STEP_BYTES, decode_content=False):
                    found += piece
            except Exception:  # urllib3 has many; mmray.remote requests the missing bytes
                if not found:
                    raise
        return bytes(found[:nbytes])

    def close(self) -> None:
        """Does nothing: connections are kept for the next object."""


def create(root: str, bucket: str, name: str, data: bytes) -> bool:
    """Create an object if there is none of that name; returns whether it was created.

    Raises:
        AnswerError: the store refuses.
    """
    boundary = uuid4().hex
    about = json.dumps({"name": name}).encode()
    body = b"".join(
        f"--{boundary}\r\nContent-Type: {kind}\r\n\r\n".encode() + content + b"\r\n"
        for kind, content in (("application/json", about), ("application/octet-stream", data))
    )
    answer = _session_of(root).post(
        f"{_host(root)}/upload/storage/v1/b/{quote(bucket, safe='')}/o",
        params={"uploadType": "multipart", "ifGenerationMatch": "0"},
        data=body + f"--{boundary}--\r\n".encode(),
        headers={"Content-Type": f"multipart/related; boundary={boundary}"},
        timeout=_TIMEOUT_S,
    )
    if answer.status_code == 412:
        return False
    _checked(answer, f"{bucket}/{name}")
    return True


def listed(root: str, bucket: str, prefix: str) -> Iterator[dict[str, str]]:
    """Name, size and checksum of each object under a prefix, 1,000 a request.

    Raises:
        AnswerError: the store does not do it.
        FileNotFoundError: there is no such bucket.
    """
    asked = {"prefix": prefix, "fields": "items(name,size,crc32c,etag),nextPageToken"}
    while True:
        answer = _session_of(root).get(
            f"{_host(root)}/storage/v1/b/{quote(bucket, safe='')}/o", params=asked, timeout=_TIMEOUT_S
        )
        page = _checked(answer, bucket).json()
        yield from page.get("items", ())
        if "nextPageToken" not in page:
            return
        asked["pageToken"] = page["nextPageToken"]


def _checked(answer: Response, what: str) -> Response:
    if answer.status_code == 404:
        raise FileNotFoundError(what)
    if not answer.ok:
        raise AnswerError(answer.status_code, answer.reason)
    return answer


def _host(root: str) -> str:
    options = parse_qs(root.partition("?")[2])
    if "endpoint_override" in options:
        return f"{options.get('scheme', ['https'])[0]}://{options['endpoint_override'][0]}"
    return os.environ.get("CLOUD_STORAGE_EMULATOR_ENDPOINT", _HOST).rstrip("/")


def _session_of(root: str) -> Session:
    try:
        return _session(root.partition("://")[2].startswith("anonymous@"))
    except UsageError as e:
        raise UsageError(f"{root}: {e}") from e


@lru_cache(maxsize=2)
def _session(anonymous: bool) -> Session:
    try:
        import requests
        from google.auth import default
        from google.auth.exceptions import DefaultCredentialsError
        from google.auth.transport.requests import AuthorizedSession
        from requests.adapters import HTTPAdapter, Retry
    except ImportError as e:
        raise UsageError(f"needs Google's credentials library: pip install 'mmray[gcs]' ({e})") from e
    if anonymous:
        session = requests.Session()
    else:
        try:
            session = AuthorizedSession(default(scopes=[_SCOPE])[0])
        except DefaultCredentialsError as e:
            reason = str(e).partition(".")[0]
            raise UsageError(f"no credentials: {reason}; docs/stores.md names the ways") from e
    retries = HTTPAdapter(
        max_retries=Retry(
            total=4, backoff_factor=0.25, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False
        )
    )
    session.mount("http://", retries)
    session.mount("https://", retries)
    return session
