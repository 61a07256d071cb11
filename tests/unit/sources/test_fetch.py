"""What a manifest names by URL is fetched within bounds, from public addresses, politely, and once."""

import socket
import time

import pytest
from support.media import image_bytes
from support.reading import fault, read_rows
from support.web import in_turn, serving, status

from mmray.errors import RecordError
from mmray.sources import ReadOptions, fetch
from mmray.sources.addresses import is_public
from mmray.sources.fetch import Fetcher
from mmray.sources.fetched import Fetched
from mmray.sources.options import FetchOptions

PNG = image_bytes()


def hang_up(handler):
    handler.close_connection = True


@pytest.fixture
def web():
    with serving() as web:
        web.pages["/1.png"] = PNG
        yield web


@pytest.fixture(autouse=True)
def apart(monkeypatch, tmp_path):
    """No waiting, no ill hosts of other tests, a cache of its own."""
    monkeypatch.setattr(fetch, "_BACKOFF_S", 0.01)
    monkeypatch.setattr(fetch, "_hosts", fetch._Hosts())
    monkeypatch.setenv("MMRAY_CACHE", str(tmp_path / "cache"))


def fetcher(member_bytes=1 << 20, **options):
    chosen = {"allow_private": True, "timeout_s": 2, "total_s": 4, **options}
    return Fetcher(ReadOptions(member_bytes=member_bytes, fetch=FetchOptions(**chosen)))


def refusal(get, url):
    with pytest.raises(RecordError) as caught:
        get.get(url)
    return caught.value.kind, caught.value.reason


def test_a_body_is_fetched_once_and_kept(web):
    assert fetcher().get(f"{web.url}/1.png") == PNG
    assert fetcher().get(f"{web.url}/1.png") == PNG
    assert web.asked["/1.png"] == 1
    assert fetcher(cache_bytes=0).get(f"{web.url}/1.png") == PNG
    assert web.asked["/1.png"] == 2


def test_a_page_of_words_is_not_kept(web):
    web.pages["/2.png"] = b"<html>come back later</html>"
    assert fetcher().get(f"{web.url}/2.png") == b"<html>come back later</html>"
    web.pages["/2.png"] = PNG
    assert fetcher().get(f"{web.url}/2.png") == PNG


@pytest.mark.parametrize(
    ("page", "kind", "tries"),
    [
        (status(404), "fetch-failed", 1),
        (status(410), "fetch-failed", 1),
        (status(403), "fetch-failed", 1),
        (status(503), "fetch-unavailable", 3),
        (status(429, Retry_After="0"), "fetch-unavailable", 3),
        (status(301), "fetch-failed", 1),
        (status(302, Location="/x.png"), "fetch-failed", 6),
        (status(302, Location="file:///etc/passwd"), "fetch-refused", 1),
        (status(302, Location="http://user:secret@127.0.0.1/"), "fetch-refused", 1),
        (status(200, Content_Encoding="gzip"), "fetch-failed", 1),
    ],
)
def test_an_answer_that_is_none_is_a_reject_of_its_kind(web, page, kind, tries):
    web.pages["/x.png"] = page
    web.pages["/x.png?token=secret"] = page
    found, reason = refusal(fetcher(), f"{web.url}/x.png?token=secret")
    assert found == kind
    assert web.url in reason
    assert "secret" not in reason
    assert sum(web.asked.values()) == tries


@pytest.mark.parametrize("first", [status(500), status(429, Retry_After="0"), hang_up])
def test_what_passes_is_tried_again(web, first):
    web.pages["/2.png"] = in_turn(first, first, PNG)
    assert fetcher().get(f"{web.url}/2.png") == PNG


def test_a_redirect_is_followed(web):
    web.pages["/a"] = status(301, Location="b/c")
    web.pages["/b/c"] = status(307, Location=f"{web.url}/1.png")
    assert fetcher().get(f"{web.url}/a") == PNG


def test_a_redirect_to_a_private_address_is_refused(web, monkeypatch):
    web.pages["/a"] = status(301, Location="http://10.0.0.1/x.png")
    real = fetch.resolve
    monkeypatch.setattr(
        fetch, "resolve", lambda host, port, **_: real(host, port, allow_private=host == "127.0.0.1")
    )
    assert refusal(fetcher(), f"{web.url}/a")[0] == "fetch-refused"


def endless(handler):
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(1 << 16))


def short(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"too short")


def trickle(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "900")
    handler.end_headers()
    for _ in range(200):
        handler.wfile.write(b"x")
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("page", "kind"),
    [
        (bytes(2000), "member-too-large"),
        (endless, "member-too-large"),
        (short, "fetch-unreachable"),
        (trickle, "fetch-unreachable"),
        (lambda handler: handler.wfile.write(b"SMTP 220 hello\r\n"), "fetch-unavailable"),
        (
            lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200),
            "fetch-unavailable",
        ),
        (lambda _: time.sleep(0.6), "fetch-unreachable"),
    ],
)
def test_a_server_that_gives_too_much_or_too_little_is_bounded(web, page, kind):
    web.pages["/x"] = page
    get = fetcher(1000, timeout_s=0.3, total_s=0.5, attempts=2)
    assert refusal(get, f"{web.url}/x")[0] == kind


def test_a_port_where_nobody_listens_is_a_reject():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    kind, reason = refusal(fetcher(), f"http://127.0.0.1:{port}/1.png")
    assert (kind, "refused" in reason) == ("fetch-unreachable", True)


def test_a_host_that_is_ill_is_not_tried_for_long(web):
    web.pages["/x"] = hang_up
    for _ in range(4):
        refusal(fetcher(), f"{web.url}/x")
    web.asked.clear()
    refusal(fetcher(), f"{web.url}/x")
    assert web.asked["/x"] == 1
    assert fetcher().get(f"{web.url}/1.png") == PNG
    web.asked.clear()
    refusal(fetcher(), f"{web.url}/x")
    assert web.asked["/x"] == 3


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/1.png",
        "http://localhost/1.png",
        "http://[::1]/1.png",
        "http://[::ffff:127.0.0.1]/1.png",
        "http://127.1/1.png",
        "http://2130706433/1.png",
        "http://0x7f000001/1.png",
        "http://0.0.0.0/1.png",
        "http://169.254.169.254/latest/meta-data",
        "http://10.1.2.3/1.png",
        "http://[fe80::1]/1.png",
        "https://192.168.1.1/1.png",
        "http://user:secret@example.org/1.png",
        "http:///1.png",
        "http://example.org:port/1.png",
        "http://[::1/1.png",
    ],
)
def test_what_is_not_public_is_refused_unless_it_is_allowed(url):
    kind, reason = refusal(Fetcher(ReadOptions()), url)
    assert (kind, "secret" in reason) == ("fetch-refused", False)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::808:808", True),
        ("2002:a00:1::", False),
        ("::7f00:1", False),
        ("fc00::1", False),
        ("fec0::1", False),
        ("fe80::1%eth0", False),
    ],
)
def test_public_addresses(address, public):
    assert is_public(address) is public


def test_the_address_that_was_checked_is_the_one_that_is_asked(web, monkeypatch):
    """A name that answers otherwise the second time gains nothing: it is asked once."""
    asked = []
    real = socket.getaddrinfo

    def once(host, *arguments, **options):
        asked.append(host)
        return real("127.0.0.1" if len(asked) == 1 else "10.0.0.1", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", once)
    port = web.url.rpartition(":")[2]
    assert fetcher().get(f"http://pictures.example:{port}/1.png") == PNG
    assert asked == ["pictures.example"]
    assert web.hosts == {f"pictures.example:{port}"}


def test_rows_of_a_manifest_are_fetched_politely(web, tmp_path):
    for i in range(12):
        web.pages[f"/{i}"] = lambda handler: handler.slow(PNG, 0.02)
    rows = "".join(f"{web.url}/{i},{i}\n" for i in range(12))
    (tmp_path / "a.csv").write_text(f"url,caption\n{rows}{web.url}/none.png,x\n{web.url}/words,y\n")
    web.pages["/words"] = b"<html>"
    found = read_rows(tmp_path / "a.csv", fetch=FetchOptions(allow_private=True, connections_per_host=2))
    assert [fault(row) for row in found] == [None] * 12 + ["fetch-failed", "media-unknown"]
    assert [row["text"] for row in found[:12]] == [str(i).encode() for i in range(12)]
    assert {row["image"] for row in found[:12]} == {PNG}
    assert web.most <= 2


class TestCache:
    def test_what_was_used_last_stays(self, tmp_path):
        cache = Fetched(1000, tmp_path)
        for i in range(8):
            cache.put(f"u{i}", bytes([i]) * 200)
            cache.get("u0", 1000)
            time.sleep(0.01)
        assert sum(file.stat().st_size for file in tmp_path.glob("*/*")) <= 1000
        assert cache.get("u0", 1000) == bytes(200)
        assert cache.get("u7", 1000) == b"\7" * 200
        assert cache.get("u1", 1000) is None

    def test_a_damaged_entry_is_none(self, tmp_path):
        cache = Fetched(1000, tmp_path)
        cache.put("u", b"abc")
        (entry,) = tmp_path.glob("*/*")
        entry.write_bytes(entry.read_bytes()[:-1] + b"d")
        assert cache.get("u", 1000) is None
        assert not entry.exists()

    def test_a_disk_that_is_full_costs_the_cache_alone(self, tmp_path):
        (tmp_path / "file").write_text("")
        cache = Fetched(1000, tmp_path / "file" / "below")
        cache.put("u", b"abc")
        assert cache.get("u", 1000) is None
