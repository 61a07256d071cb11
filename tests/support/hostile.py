"""Requests that a server on the open must survive: what they are, and what it has to answer."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import pickle
import select
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from support import damaged
from support.media import image_bytes

BOUNDARY = "frontier"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"
JSON, NDJSON = "application/json", "application/x-ndjson"
PREDICT, BATCH = "/v1/predict", "/v1/predict/batch"


@dataclass(frozen=True)
class Request:
    """A request, the status that it must get, and the `reason` of the problem where that is promised."""

    name: str
    status: int
    body: bytes = b""
    reason: str | None = None
    media_type: str | None = JSON
    path: str = PREDICT
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    def json(self):
        return json.loads(self.body)


def send(url, request, token=None):
    """Send one request as it is, however wrong it is; its answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    headers = {**({"Content-Type": request.media_type} if request.media_type else {}), **request.headers}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    try:
        with suppress(BrokenPipeError, ConnectionResetError):  # it may answer before it heard all
            connection.request(request.method, parts.path + request.path, request.body, headers)
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, headers, response.read())
    finally:
        connection.close()


def send_raw(url, *pieces, pause_s=0.0):
    """Write bytes to the server's port, piece by piece, until it answers; the head of what it says."""
    parts = urlsplit(url)
    said = b""
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):  # it may close before it heard all
            for piece in pieces:
                if select.select([connection], [], [], pause_s)[0] or not _sent(connection, piece):
                    break
        with suppress(ConnectionResetError):
            while b"\r\n\r\n" not in said and (heard := connection.recv(65_536)):
                said += heard
    return said


def _sent(connection, piece):
    """Send all of a piece, unless an answer comes first: whoever has answered may read no more."""
    rest = memoryview(piece)
    while rest:
        answered, free, _ = select.select([connection], [connection], [], 60)
        if answered or not free:
            return False
        rest = rest[connection.send(rest[: 1 << 16], socket.MSG_DONTWAIT) :]
    return True


def b64(data):
    return base64.b64encode(data).decode()


def record(**fields):
    return json.dumps(fields).encode()


def part(name, data, filename=None, head=""):
    """One part of a multipart body."""
    file = f'; filename="{filename}"' if filename else ""
    disposition = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n{head}\r\n'
    return disposition.encode() + data + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


def _media(modality, kinds):
    """A damaged member of each kind, as JSON."""
    return [
        Request(kind, 422, record(**{modality: b64(make())}), reason)
        for kind, (_, make, reason) in damaged.BAD_MEMBERS.items()
        if reason.startswith(kinds)
    ]


class _Exploit:
    def __reduce__(self):
        return print, ("unpickled",)


REQUESTS = [
    # what is no JSON, or none of ours
    Request("json-empty", 400),
    Request("json-words", 400, b"a red cat"),
    Request("json-cut", 400, record(text="a red cat")[:-2]),
    Request("json-array", 400, b'["a red cat"]'),
    Request("json-number", 400, b"7"),
    Request("json-null", 400, b"null"),
    Request("json-deep-arrays", 400, b"[" * 200_000),
    Request("json-deep-objects", 400, b'{"text":' * 100_000 + b"1" + b"}" * 100_000),
    Request("json-huge-number", 400, b'{"text": ' + b"9" * 100_000 + b"}"),
    Request("json-nan", 400, b'{"text": NaN}'),
    Request("json-utf16", 400, '{"text": "a cat"}'.encode("utf-16")),
    Request("json-latin1", 400, '{"text": "café"}'.encode("latin-1")),
    Request("json-half-surrogate", 400, rb'{"text": "\ud800"}'),
    Request("json-repeated-field", 400, b'{"text": "a cat", "text": "a dog"}'),
    Request("json-unknown-field", 400, record(text="a cat", imgae="")),
    Request("json-prototype-field", 400, record(text="a cat", __class__="os")),
    Request("json-text-number", 400, record(text=7)),
    Request("json-text-object", 400, record(text={"path": "/etc/passwd"})),
    Request("json-image-list", 400, record(image=[137, 80, 78, 71])),
    Request("json-image-true", 400, record(image=True)),
    # base64 that is none, and what is no bytes at all
    Request("base64-alphabet", 400, record(image="!!!!")),
    Request("base64-padding", 400, record(image="iVBORw0KG")),
    Request("base64-unicode", 400, record(image="ïVBORw0KGgo=")),
    Request("image-is-path", 400, record(image="/etc/passwd")),
    Request("image-is-url", 400, record(image="http://127.0.0.1:9/cat.png")),
    Request("image-is-file-url", 400, record(image="file:///etc/passwd")),
    Request("image-is-data-url", 400, record(image="data:image/png;base64," + b64(image_bytes()))),
    # records that preprocessing rejects, bombs among them
    Request("record-empty", 422, b"{}", "no-modality"),
    Request("record-nulls", 422, record(image=None, text=None, audio=None), "no-modality"),
    *_media("image", "image"),
    *_media("audio", "audio"),
    Request("image-pickle", 422, record(image=b64(pickle.dumps(_Exploit()))), "image-undecodable"),
    Request(
        "image-svg", 422, record(image=b64(b"<svg xmlns='http://www.w3.org/2000/svg'/>")), "image-undecodable"
    ),
    Request("text-blank", 422, record(text=" \n\t"), "text-empty"),
    Request("text-endless", 422, record(text=damaged.ENDLESS_TEXT.decode()), "text-too-long"),
    Request("model-fails", 422, record(text="poison"), "model-error"),
    Request("model-gives-nan", 422, record(text="nan"), "not-finite"),
    # the query
    Request("explain-perhaps", 400, record(text="a cat"), path=f"{PREDICT}?explain=perhaps"),
    Request("top-word", 400, record(text="a cat"), path=f"{PREDICT}?top=all"),
    Request("top-negative", 400, record(text="a cat"), path=f"{PREDICT}?top=-1"),
    Request("top-huge", 400, record(text="a cat"), path=f"{PREDICT}?top={'9' * 5_000}"),
    # the media type
    Request("type-none", 415, record(text="a cat"), media_type=None),
    Request("type-text", 415, b"a cat", media_type="text/plain"),
    Request("type-form", 415, b"text=a+cat", media_type="application/x-www-form-urlencoded"),
    Request("type-pickle", 415, pickle.dumps({"text": "a cat"}), media_type="application/python-pickle"),
    Request("type-nonsense", 415, record(text="a cat"), media_type="/;=;"),
    Request("encoding-gzip", 415, gzip.compress(bytes(1 << 20)), headers={"Content-Encoding": "gzip"}),
    # multipart
    Request("multipart-no-boundary", 400, part("text", b"a cat") + END, media_type="multipart/form-data"),
    Request("multipart-other-boundary", 400, b"--other\r\n\r\na cat", media_type=MULTIPART),
    Request("multipart-empty", 400, media_type=MULTIPART),
    Request("multipart-cut", 400, part("image", image_bytes(), "a.png")[:-20], media_type=MULTIPART),
    Request("multipart-no-name", 400, part("", b"a cat") + END, media_type=MULTIPART),
    Request("multipart-unknown-part", 400, part("imgae", image_bytes(), "a.png") + END, media_type=MULTIPART),
    Request("multipart-repeated-part", 400, 2 * part("text", b"a cat") + END, media_type=MULTIPART),
    Request("multipart-many-parts", 400, 5_000 * part("text", b"a") + END, media_type=MULTIPART),
    Request(
        "multipart-long-head", 400, part("text", b"a", head="X: " + "y" * 500_000) + END, media_type=MULTIPART
    ),
    Request("multipart-latin1", 422, part("text", b"caf\xe9") + END, "text-not-utf8", media_type=MULTIPART),
    Request(
        "multipart-path-as-name",
        422,
        part("image", b"no image", "../../etc/passwd") + END,
        "image-undecodable",
        media_type=MULTIPART,
    ),
    # routes and methods
    Request("method-get", 405, media_type=None, method="GET"),
    Request("method-put", 405, record(text="a cat"), method="PUT"),
    Request("method-delete", 405, media_type=None, method="DELETE", path="/v1/model"),
    Request("path-unknown", 404, media_type=None, method="GET", path="/v2/predict"),
    Request("path-admin", 404, media_type=None, method="GET", path="/docs"),
    Request("path-traversal", 404, media_type=None, method="GET", path="/../../etc/passwd"),
    Request("path-traversal-escaped", 404, media_type=None, method="GET", path="/%2e%2e/%2e%2e/etc/passwd"),
    Request("path-nul", 404, media_type=None, method="GET", path="/page.css%00.html"),
    # batches that are broken as a whole
    Request("batch-empty", 400, path=BATCH, media_type=NDJSON),
    Request("batch-as-json", 415, b'[{"text": "a cat"}]', path=BATCH),
    Request("batch-too-many", 413, b'{"text": "a"}\n' * 20_000, path=BATCH, media_type=NDJSON),
    Request("batch-part-unnumbered", 400, part("text", b"a") + END, path=BATCH, media_type=MULTIPART),
    Request("batch-part-negative", 400, part("-1.text", b"a") + END, path=BATCH, media_type=MULTIPART),
    Request("batch-part-far-off", 400, part(f"{10**12}.text", b"a") + END, path=BATCH, media_type=MULTIPART),
]

#: Lines of a batch that get an error of their own, while those beside them are predicted.
BAD_LINES = {
    "cut": b'{"text": "a c',
    "array": b"[]",
    "deep": b"[" * 100_000,
    "empty": b"{}",
    "number": record(text=1),
    "base64": record(image="!"),
    "bomb": record(image=b64(damaged.png_bomb())),
    "surrogate": rb'{"text": "\udcff"}',
}
