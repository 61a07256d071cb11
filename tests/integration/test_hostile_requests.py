"""What strangers send: each bad request gets a clear 4xx, none a 5xx, and none much memory."""

import itertools
import json
import os
import re
import socket
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from support.command import worker_pids
from support.hostile import BAD_LINES, BATCH, NDJSON, PREDICT, REQUESTS, Request, record, send, send_raw

from mmray.serve.ingress import CLIENT_CONNECTIONS

GOOD = Request("good", 200, record(text="a red cat"))
# Of any process, by all requests here: measured 13 MiB. The bombs claim 0.8 GiB and more, the floods send 4.
MOST_GROWTH_BYTES = 100 << 20


def problem_of(answer):
    """The problem that an answer tells, in the form that RFC 9457 gives it."""
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert {"type", "title", "status", "detail"} <= set(problem)
    assert problem["status"] == answer.status
    assert problem["detail"]
    assert "Traceback" not in problem["detail"]
    return problem


def status_of(said):
    """Of the head of an answer."""
    assert said.startswith(b"HTTP/1.1 "), said[:100]
    return int(said.split(b" ", 2)[1])


def parent(pid):
    """Process id of a process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def peaks():
    """Largest resident size so far, in bytes, of each process of this server; others may run beside it."""
    found = {}
    for pid in worker_pids("Serve", "Proxy"):
        with suppress(FileNotFoundError):  # another server's, which ends
            if parent(parent(pid)) == os.getpid():  # the raylet is between
                status = Path(f"/proc/{pid}/status").read_text()
                found[pid] = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10
    return found


@pytest.fixture(scope="module", autouse=True)
def bounded(server):
    """All of this module together neither makes the server grow, nor ends a process of it."""
    assert send(server.url, GOOD).status == 200
    before = peaks()
    assert before
    yield
    assert send(server.url, GOOD).status == 200
    after = peaks()
    assert before.keys() <= after.keys(), "a process died"
    growth = {pid: after[pid] - before[pid] for pid in before}
    assert max(growth.values()) < MOST_GROWTH_BYTES, growth


def test_the_table_is_long_and_says_nothing_twice():
    assert len(REQUESTS) >= 40
    assert len({request.name for request in REQUESTS}) == len(REQUESTS)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.name)
def test_a_bad_request_gets_a_clear_4xx(server, request_):
    answer = send(server.url, request_)
    assert answer.status == request_.status, answer.body[:300]
    problem = problem_of(answer)
    if request_.reason:
        assert problem["reason"] == request_.reason
    if answer.status == 405:
        assert answer.headers["allow"]


def test_a_bad_line_costs_only_itself(server):
    good = record(text="a red cat")
    lines = [line for bad in BAD_LINES.values() for line in (good, bad)]
    answer = send(server.url, Request("mixed", 200, b"\n".join(lines), path=BATCH, media_type=NDJSON))
    assert answer.status == 200
    rows = [json.loads(line) for line in answer.body.splitlines()]
    assert [row["index"] for row in rows] == list(range(len(lines)))
    assert all("label" in row for row in rows[::2])
    assert [name for name, row in zip(BAD_LINES, rows[1::2], strict=True) if "error" not in row] == []
    assert all(400 <= row["error"]["status"] < 500 for row in rows[1::2])


MEBIBYTE = b" " * (1 << 20)
FLOODS = {
    "in-chunks": (b"Transfer-Encoding: chunked", b"100000\r\n" + MEBIBYTE + b"\r\n", 411),
    "of-known-length": (b"Content-Length: 10737418240", MEBIBYTE, 413),
}
HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
RAW = {
    "body-claims-10-gigabytes": (HEAD + b"Content-Length: 10737418240\r\n\r\n{", {413}),
    "length-negative": (HEAD + b"Content-Length: -5\r\n\r\n{}", {400}),
    "length-word": (HEAD + b"Content-Length: many\r\n\r\n{}", {400}),
    "length-twice": (HEAD + b"Content-Length: 2\r\nContent-Length: 20\r\n\r\n{}", {400}),
    "length-and-chunks": (
        HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        {400, 411},  # HAProxy takes the length out, as RFC 9112 allows, before the replica sees it
    ),
    "chunk-of-no-size": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", {400}),
    "header-of-a-megabyte": (HEAD + b"X: " + b"y" * (1 << 20) + b"\r\n\r\n", {400, 431}),
    "headers-by-the-thousand": (HEAD + b"X: y\r\n" * 20_000 + b"\r\n", {400, 431}),
    "header-with-nul": (HEAD + b"X: a\0b\r\n\r\n", {400}),
    "header-folded": (HEAD + b"X: a\r\n\tb\r\nContent-Length: 2\r\n\r\n{}", {400, 422}),
    "method-unknown": (b"UNPICKLE /v1/predict HTTP/1.1\r\nHost: x\r\n\r\n", {400, 405, 501}),
    "no-http": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n", {400}),
}


@pytest.mark.parametrize("name", RAW)
def test_what_breaks_the_protocol_is_refused(server, name):
    data, statuses = RAW[name]
    said = send_raw(server.url, data)
    assert status_of(said) in statuses, said[:300]


@pytest.mark.parametrize(("head", "piece", "status"), FLOODS.values(), ids=FLOODS)
def test_an_endless_body_is_refused_before_it_has_come(server, head, piece, status):
    """The proxy reads ahead of the replica that refuses: what it holds then must be little."""
    said = send_raw(server.url, HEAD + head + b"\r\n\r\n", *itertools.repeat(piece, 4_000))
    assert status_of(said) == status


def test_a_body_that_does_not_come_is_given_up(server):
    said = send_raw(server.url, HEAD + b"Content-Length: 100\r\n\r\n{")
    assert status_of(said) == 408


def test_a_body_that_trickles_is_given_up(server):
    """Each byte comes in time; all of them together do not."""
    said = send_raw(server.url, HEAD + b"Content-Length: 1000\r\n\r\n", *[b" "] * 300, pause_s=0.1)
    assert status_of(said) == 408


@pytest.mark.skipif(sys.platform != "linux", reason="all of 127.0.0.0/8 is this machine only on Linux")
def test_half_heads_of_one_address_take_no_place_from_others_and_are_given_up(server):
    """Nobody had to show a token for them."""
    parts = urlsplit(server.url)
    held, refused = [], 0
    with ExitStack() as ends:
        for _ in range(CLIENT_CONNECTIONS + 40):
            connection = ends.enter_context(socket.socket())
            connection.settimeout(20)
            connection.bind(("127.0.0.2", 0))
            try:
                connection.connect((parts.hostname, parts.port))
                connection.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\n")
                held.append(connection)
            except (BrokenPipeError, ConnectionResetError):  # as early as in connect(), on a busy machine
                refused += 1
        assert send(server.url, GOOD).status == 200
        told = [heard(connection) for connection in held]
    assert sum(said.startswith(b"HTTP/1.1 408") for said in told) <= CLIENT_CONNECTIONS
    assert refused + sum(said == b"" for said in told) >= 40


def heard(connection):
    """What comes until the other side closes."""
    said = b""
    with suppress(ConnectionResetError):
        while data := connection.recv(65_536):
            said += data
    return said


WRONG_CREDENTIALS = {
    "none": None,
    "wrong": "Bearer nobody",
    "beginning": "Bearer {beginning}",
    "longer": "Bearer {token}x",
    "twice": "Bearer {token} {token}",
    "no-scheme": "{token}",
    "other-scheme": "Basic {token}",
    "empty": "Bearer ",
    "latin-1": "Bearer caf\xe9",
}


@pytest.mark.parametrize("given_", WRONG_CREDENTIALS)
@pytest.mark.parametrize("path", [PREDICT, BATCH, "/v1/model", "/openapi.json"])
def test_without_the_right_token_nothing_is_told(guarded_server, path, given_):
    token = guarded_server.token
    wrong = WRONG_CREDENTIALS[given_]
    headers = {"Authorization": wrong.format(token=token, beginning=token[:-1])} if wrong else {}
    method = "POST" if path in (PREDICT, BATCH) else "GET"
    answer = send(
        guarded_server.url, Request(given_, 401, GOOD.body, path=path, method=method, headers=headers)
    )
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert token not in answer.body.decode()
    problem_of(answer)


def test_a_token_in_the_address_is_none(guarded_server):
    path = f"{PREDICT}?token={guarded_server.token}&access_token={guarded_server.token}"
    assert send(guarded_server.url, Request("query", 401, GOOD.body, path=path)).status in (400, 401)


def test_with_the_token_all_is_open_and_health_and_page_without(guarded_server):
    assert send(guarded_server.url, GOOD, guarded_server.token).status == 200
    for path in ("/", "/page.js", "/healthz", "/readyz"):
        assert (
            send(guarded_server.url, Request(path, 200, path=path, method="GET", media_type=None)).status
            == 200
        )


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_the_openapi_document_tells_the_truth(server, mode):
    """What it allows and what it does not: each answer is one that it announces, and none a 5xx."""
    api = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [found.ok() for found in api.get_all_operations()]
    assert {"/v1/predict", "/v1/predict/batch", "/v1/model"} <= {operation.path for operation in operations}
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and operation.method == "get":
            continue  # nothing in it can be wrong

        @given(operation.as_strategy(generation_mode=mode))
        @settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        def check(case):
            # Text that a schema allows is seldom a picture: a reject is an answer, too.
            case.call_and_validate(excluded_checks=[positive_data_acceptance])

        check()
