"""Bodies of requests: read within bounds of bytes and time, parsed into records. No media is decoded here."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import pyarrow as pa
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from mmray.schema import MODALITIES, RECORDS, table
from mmray.serve.admission import Arrival
from mmray.serve.multipart import parse_multipart
from mmray.serve.problems import Problem, malformed

JSON, MULTIPART, NDJSON = "application/json", "multipart/form-data", "application/x-ndjson"


# A record is flat: its text may have commas and brackets, but not so many. 32 MB of `[],` took 850 MB.
_MOST_SEPARATORS = 1_000_000


@dataclass(frozen=True)
class Item:
    """A record as it was sent: bytes of each of its modalities, and the client's id."""

    members: Mapping[str, bytes]
    id: str | int | None = None


def media_type(request: Request, allowed: Sequence[str]) -> tuple[str, bytes]:
    """Media type of a request's body, and the boundary if it is multipart.

    Raises:
        Problem: 415.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(415, "content-encoding", "compressed bodies are not accepted; send it uncompressed")
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    name = kind.decode("latin-1").lower()
    if name not in allowed:
        raise Problem(
            415,
            "media-type",
            f"not accepted here; send {' or '.join(allowed)}",
            headers={"Accept": ", ".join(allowed)},
        )
    return name, options.get(b"boundary", b"")


def check_length(request: Request, most_bytes: int) -> None:
    """Refuse a body by the length in the request's header.

    Raises:
        Problem: 413 beyond `most_bytes`, 411 if it is not stated.
    """
    if "transfer-encoding" in request.headers:
        # Serve's Python proxy reads ahead of us: 400 MB of an endless body before we could cut it off.
        raise Problem(
            411, "length-required", "send the body with a Content-Length", headers={"Connection": "close"}
        )
    claimed = request.headers.get("content-length", "0")
    if not claimed.isascii() or not claimed.isdigit():
        raise malformed("Content-Length is not a number")
    if len(claimed) > 15 or int(claimed) > most_bytes:
        _too_large(most_bytes)


async def read_body(request: Request, most_bytes: int, timeout_s: float, arrival: Arrival) -> bytes:
    """The whole body, counted as it arrives.

    Raises:
        Problem: 413 beyond `most_bytes`, 408 if it takes longer than `timeout_s`, 503 without memory.
    """
    chunks: list[bytes] = []
    count = 0
    try:
        async with arrival.within(timeout_s):
            async for chunk in request.stream():
                count += len(chunk)
                if count > most_bytes:
                    _too_large(most_bytes)
                arrival.came(len(chunk))
                chunks.append(chunk)
    except TimeoutError:
        raise Problem(
            408,
            "slow-body",
            f"the body did not arrive within {timeout_s:g} s",
            headers={"Connection": "close"},
        ) from None
    except ClientDisconnect:
        raise malformed("the body is incomplete") from None
    return b"".join(chunks)


def _too_large(most_bytes: int) -> NoReturn:
    raise Problem(
        413, "body-too-large", f"a body has at most {most_bytes:,} bytes", headers={"Connection": "close"}
    )


def parse_one(body: bytes, kind: str, boundary: bytes) -> Item:
    """The record of `/v1/predict`.

    Raises:
        Problem: 400.
    """
    if kind == JSON:
        return _item(_parse_json(body), MODALITIES)
    parts = parse_multipart(body, boundary, len(MODALITIES))
    for name in parts:
        if name not in MODALITIES:
            raise malformed(f"unknown part {name[:40]!r}; known are {', '.join(MODALITIES)}")
    return Item(parts)


def parse_batch(body: bytes, kind: str, boundary: bytes, most: int) -> list[Item | Problem]:
    """The records of `/v1/predict/batch`; a malformed line is replaced by its problem.

    Raises:
        Problem: 400 if the whole body is malformed, 413 if it has more than `most` records.
    """
    if kind == NDJSON:
        if body.count(b"\n") > 2 * most:  # before any object is made
            raise _too_many(most)
        lines = [line for line in body.split(b"\n") if line.strip()]
        items = [_parse_line(line) for line in lines[: most + 1]]
    else:
        items = _numbered(parse_multipart(body, boundary, most * len(MODALITIES)), most)
    if len(items) > most:
        raise _too_many(most)
    if not items:
        raise malformed("a batch without records")
    return items


def _too_many(most: int) -> Problem:
    return Problem(413, "too-many-records", f"a batch has at most {most} records; send several")


def records_of(items: Sequence[Item]) -> pa.Table:
    """Table of RECORDS, one row an item."""
    columns: dict[str, list[object]] = {m: [item.members.get(m) for item in items] for m in MODALITIES}
    return table({"row": list(range(len(items))), **columns}, RECORDS)


def _parse_line(line: bytes) -> Item | Problem:
    try:
        return _item(_parse_json(line), (*MODALITIES, "id"))
    except Problem as e:
        return e


def _parse_json(data: bytes) -> dict[str, Any]:
    """A JSON object, parsed strictly: UTF-8, no field twice, no NaN, few separators."""
    if sum(map(data.count, (b",", b"[", b"{"))) > _MOST_SEPARATORS:
        raise malformed(f"JSON with more than {_MOST_SEPARATORS:,} separators")
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as e:  # bad UTF-8 and endless numbers are ValueErrors, too
        raise malformed(f"not JSON: {e!s:.100}") from e
    if not isinstance(value, dict):
        raise malformed("JSON, but not an object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a field is given twice")
    return fields


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _item(fields: Mapping[str, Any], known: Sequence[str]) -> Item:
    members: dict[str, bytes] = {}
    for name, value in fields.items():
        if name not in known:
            raise malformed(f"unknown field {name[:40]!r}; known are {', '.join(known)}")
        if value is None or name == "id":
            continue
        if not isinstance(value, str):
            raise malformed(f"{name} must be a string")
        members[name] = _utf8(value) if name == "text" else _from_base64(name, value)
    own = fields.get("id")
    if own is not None and (isinstance(own, bool) or not isinstance(own, str | int)):
        raise malformed("id must be a string or an integer")
    if isinstance(own, str):
        _utf8(own)
    return Item(members, own)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as e:
        raise malformed("text has half a surrogate pair") from e


def _from_base64(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as e:
        raise malformed(f"{name} is not base64: {e}") from e


def _numbered(parts: Mapping[str, bytes], most: int) -> list[Item | Problem]:
    """Parts named `0.image`, `0.text`, `1.image`, … → records."""
    rows: dict[int, dict[str, bytes]] = {}
    for name, data in parts.items():
        number, _, modality = name.partition(".")
        if modality not in MODALITIES or not (number.isascii() and number.isdigit() and len(number) < 10):
            raise malformed(f"part {name[:40]!r} is not named like 0.image")
        rows.setdefault(int(number), {})[modality] = data
    if rows and max(rows) + 1 > len(rows):
        raise malformed("the records of the parts are not numbered 0, 1, 2, …")
    if len(rows) > most:
        raise _too_many(most)
    return [Item(rows[i]) for i in range(len(rows))]
