"""From a URL to a filesystem and a path on it.

pyarrow opens file, s3, gs, az, abfs and hdfs; fsspec the others: http, https, and what has a driver.
Paths are used unchanged, without %-decoding, so that listed objects can be opened. Credentials come from the
same places as for the store's own tools (environment, files, machine); a URL with credentials is refused,
because URLs are written to plan.json and logs.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs

from mmray import azure
from mmray.errors import UsageError
from mmray.remote import retrying

#: Concurrent requests to stores: each takes some 30 ms, and examining a shard takes three.
REQUESTS = 128

_LOCAL = ("file", "local")
_GOOGLE = ("gs", "gcs")
# Google's client would retry for 15 minutes; after this time mmray.remote retries, as for S3.
_GOOGLE_RETRIES = "retry_limit_seconds=6"
_QUERY = re.compile(r"\?[\w.-]+=[^?]*$")  # options of the filesystem; any other "?" belongs to a glob
_NO_BUCKET = re.compile(r"Bucket ('[^']*') not found")
_SECRET_USER = re.compile(r":[^@]*@|^[^\[@]*:(?!\d+$)")  # user:secret@host; the secret may contain a slash
_SECRET_OPTION = re.compile(
    r"(?i)[?&_-](sig|signature|(secret|access)_key|secret|password|token|credential)="
)


class Opened(NamedTuple):
    """A parsed URL: `prefix`, then the path from character `skip` on, then `query`."""

    filesystem: pafs.FileSystem
    path: str
    prefix: str = ""
    skip: int = 0
    query: str = ""


def open_url(url: str) -> Opened:
    """Connect to the filesystem of a URL; each is opened once in a process.

    Raises:
        UsageError: an unknown scheme or option, a driver that is missing, no such bucket, or a secret in the
            URL.
        OSError: the store cannot be reached.
    """
    scheme, _, rest = url.partition("://")
    found = _QUERY.search(rest)
    query = found.group() if found else ""
    authority, _, key = rest.removesuffix(query).partition("/")
    if _SECRET_USER.search(authority) or _SECRET_OPTION.search(query):
        raise UsageError(
            f"{scheme}://***: has a secret, but URLs are written to plan.json and logs; remove it, and "
            "set it in the environment (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; docs/stores.md)"
        )
    prefix = f"{scheme}://{authority}/"
    try:
        # pyarrow decodes %20 in a path and accepts no "[" or blank in it: for a store it gets only the root.
        filesystem, root = retrying(lambda: _connect(url if scheme in _LOCAL else prefix + query), url)
    except _UnknownSchemeError:
        return _open_by_fsspec(url)
    if isinstance(filesystem, pafs.LocalFileSystem):
        return Opened(filesystem, root)
    root = f"{root.rstrip('/')}/" if root else ""
    return Opened(filesystem, (root + key).rstrip("/"), prefix, len(root), query)


class _UnknownSchemeError(UsageError):
    pass


@lru_cache(maxsize=64)
def _connect(url: str) -> tuple[pafs.FileSystem, str]:
    """pyarrow's filesystem of a URL, and its path."""
    # A client has as many connections as there are such threads at its creation, and at least 25 (Arrow 26).
    pa.set_io_thread_count(max(pa.io_thread_count(), REQUESTS))
    scheme, _, rest = url.partition("://")
    if scheme in azure.SCHEMES:
        return azure.account_of(url).connect(), azure.split(rest.partition("/")[0])[0]
    if scheme in _GOOGLE and "retry_limit_seconds=" not in url:
        url += f"{'&' if '?' in url else '?'}{_GOOGLE_RETRIES}"
    try:
        filesystem, path = pafs.FileSystem.from_uri(url)
    except pa.ArrowException as e:
        kind = _UnknownSchemeError if "Unrecognized filesystem type" in str(e) else UsageError
        raise kind(f"{url}: not a path or URL that can be opened: {e}") from e
    except OSError as e:
        if "libjvm" in str(e) or "libhdfs" in str(e):
            reason = str(e).partition("\n")[0]
            raise UsageError(f"{url}: needs Hadoop ({reason}); set JAVA_HOME, HADOOP_HOME, CLASSPATH") from e
        if found := _NO_BUCKET.search(str(e)):  # not a temporary failure: pyarrow has no specific type for it
            raise UsageError(f"{url}: there is no bucket {found[1]}; check its name") from e
        raise
    return filesystem, path


def _open_by_fsspec(url: str) -> Opened:
    import fsspec  # takes 70 ms, which local runs do not need

    try:
        # A cached listing would hide the parts that workers wrote.
        driver, path = fsspec.url_to_fs(url, use_listings_cache=False)
    except ImportError as e:
        raise UsageError(f"{url}: its driver is missing: {e}") from e
    except ValueError as e:
        raise UsageError(f"{url}: not a path or URL that can be opened: {e}") from e
    whole: str = driver.unstrip_protocol(path)
    return Opened(pafs.PyFileSystem(Driver(driver)), path.rstrip("/"), whole.removesuffix(path))


class Driver(pafs.FSSpecHandler):  # type: ignore[misc]  # pyarrow has no types
    """A driver of fsspec, for pyarrow."""

    def open_input_file(self, path: str) -> pa.PythonFile:
        """Like the base class, without checking that it is a file, which over http requests all of it."""
        return pa.PythonFile(self.fs.open(path, mode="rb"), mode="r")

    def about(self, path: str) -> dict[str, Any]:
        """The store's metadata of a file."""
        told: dict[str, Any] = self.fs.info(path)
        return told

    def read_span(self, path: str, start: int, stop: int) -> bytes:
        """Bytes of a file, without the driver's read-ahead.

        None if a web server only sends whole files.
        """
        whole = self.about(path).get("partial") is False
        return b"" if whole else bytes(self.fs.cat_file(path, start=start, end=stop))
