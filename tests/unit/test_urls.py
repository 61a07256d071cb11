"""A URL leads where it says, in every process; it is taken literally, and never has a secret."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
from support.stores import Bucket

from mmray.errors import UsageError
from mmray.storage import Location

OPTIONS = "?endpoint_override=127.0.0.1:9000&scheme=http"

# URL, path on its filesystem
URLS = {
    f"s3://bucket/a/b.tar{OPTIONS}": "bucket/a/b.tar",
    f"s3://bucket/a b/[1] %20 #ü@x:y.tar{OPTIONS}": "bucket/a b/[1] %20 #ü@x:y.tar",
    f"s3://bucket/a/{OPTIONS}": "bucket/a",
    f"s3://bucket{OPTIONS}": "bucket",
    f"s3://bucket/part-?.*{OPTIONS}": "bucket/part-?.*",
    "s3://bucket/part-?.tar?region=us-east-2": "bucket/part-?.tar",
    "gs://anonymous@bucket/a/b": "bucket/a/b",
    "abfs://files@account.dfs.core.windows.net/a/b": "files/a/b",
    "abfss://account.blob.core.windows.net/files/a/b": "files/a/b",
    "http://host:8000/a/b.tar": "http://host:8000/a/b.tar",
    "https://user@host/a/b.tar": "https://user@host/a/b.tar",
    "memory://a/b": "/a/b",
    "mock:///a/b": "a/b",
}


@pytest.mark.parametrize("url", URLS)
def test_a_url_is_read_and_written_alike(url):
    place = Location.parse(url)
    assert not place.is_local
    assert place.path == URLS[url]
    again = Location.parse(str(place))
    assert (again.path, again.url) == (place.path, place.url)
    assert (again / "c").path == (place / "c").path == f"{place.path}/c"
    assert Location.parse((place / "c").url).path == (place / "c").path
    assert place.beside(".x").path == f"{place.path}.x"


def test_a_url_says_the_same_to_another_process(s3: Bucket):
    """As to workers on other machines, which get nothing but the URL."""
    place = Location.parse(s3.url("a b")) / "[c].txt"
    place.write_atomically(b"content")
    script = "import sys; from mmray.storage import Location; print(Location.parse(sys.argv[1]).read_bytes())"
    done = subprocess.run(
        [sys.executable, "-c", script, place.url], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "b'content'"


def test_the_environment_may_name_the_endpoint(s3: Bucket, monkeypatch):
    host, port = s3.server.server_address
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    place = Location.parse(f"s3://{s3.name}/a?region=us-east-1")
    place.write_atomically(b"content")
    assert Location.parse(s3.url("a")).read_bytes() == b"content"


@pytest.mark.parametrize(
    "url",
    [
        f"s3://KEY:HUSH@bucket/a{OPTIONS}",
        "s3://KEY:HU/SH@bucket/a",
        "https://user:HUSH@host/a.tar",
        "https://bucket.s3.amazonaws.com/a.tar?X-Amz-Algorithm=x&X-Amz-Signature=HUSH",
        "https://account.blob.core.windows.net/c/a.tar?sv=1&sig=HUSH",
        "abfs://account:HUSH@files/a",
        "s3://bucket/a?secret_key=HUSH",
    ],
)
def test_a_secret_is_refused_and_not_repeated(url):
    with pytest.raises(UsageError, match=r"has a secret.*environment") as e:
        Location.parse(url)
    assert "HU" not in str(e.value)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("gopher://host/", "gopher"),
        ("://a", "not a path or URL"),
        ("s3://bucket/?endpoint=localhost", "Unexpected query parameter"),
        ("s3a://bucket/", "Install s3fs"),
        ("hdfs://host:8020/", "JAVA_HOME"),
    ],
)
def test_a_url_that_cannot_be_opened_is_refused_by_name(url, reason):
    with pytest.raises(UsageError, match=reason) as e:
        Location.parse(url)
    assert str(e.value).startswith(url)
    assert "\n" not in str(e.value)


def test_a_bucket_that_is_not_there_is_refused_at_once(monkeypatch):
    """What pyarrow says where the store's answer to HeadBucket is 404; it takes a real S3 to see it."""

    def from_uri(_):
        raise OSError("When resolving region for bucket 'nowhere': Bucket 'nowhere' not found")

    monkeypatch.setattr("mmray.urls.pafs", SimpleNamespace(FileSystem=SimpleNamespace(from_uri=from_uri)))
    with pytest.raises(UsageError, match=r"s3://nowhere/.*no bucket 'nowhere'; check its name"):
        Location.parse("s3://nowhere/in/a.tar")
