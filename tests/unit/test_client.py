"""The client: patience with a busy server, and errors that say what happened."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mmray.client import Client, ServerError
from mmray.errors import UsageError

BUSY = (503, {"Retry-After": "0"}, b'{"title": "Overloaded"}')
CLOSED = (0, {}, b"")  # the connection is closed without an answer
CUT = (200, {"Content-Length": "99"}, b'{"label": "d')  # and within one


class Scripted(ThreadingHTTPServer):
    """A server that gives prepared answers in order, the last for ever, and keeps what it was asked."""

    def __init__(self, *answers):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.asked = list(answers), []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.path, dict(self.headers), body))
        answers = self.server.answers
        status, headers, said = answers.pop(0) if len(answers) > 1 else answers[0]
        if not status:
            return
        self.send_response(status)
        for header in {"Content-Length": str(len(said)), **headers}.items():
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(said)

    do_GET = do_POST  # noqa: N815  (the name that http.server looks for)


@pytest.fixture
def serve():
    servers = []

    def start(*answers):
        server = Scripted(*answers)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ok(**answer):
    return 200, {}, json.dumps(answer).encode()


def test_a_record_travels_as_json_with_its_media_in_base64(serve, tmp_path):
    server = serve(ok(label="cat"))
    (tmp_path / "meow.wav").write_bytes(b"RIFF")
    record = {"image": b"\x89PNG", "text": "ä cat", "audio": tmp_path / "meow.wav"}
    client = Client(f"{server.url}/cats/", token="secret")
    assert client.predict(record, explain=True, top=3) == {"label": "cat"}
    path, headers, body = server.asked[0]
    assert path == "/cats/v1/predict?explain=true&top=3"
    assert headers["Authorization"] == "Bearer secret"
    sent = json.loads(body)
    assert sent.pop("text") == "ä cat"
    assert {name: base64.b64decode(data) for name, data in sent.items()} == {
        "image": b"\x89PNG",
        "audio": b"RIFF",
    }


def test_a_busy_server_is_asked_again_with_the_same_record(serve):
    server = serve(BUSY, BUSY, ok(label="cat"))
    assert Client(server.url).predict({"text": "a"}) == {"label": "cat"}
    assert len(server.asked) == 3
    assert len({body for _, _, body in server.asked}) == 1


def test_a_closed_connection_is_opened_again_with_the_same_record(serve):
    server = serve(CLOSED, CUT, CLOSED, ok(label="cat"))
    assert Client(server.url).predict({"text": "a"}) == {"label": "cat"}
    assert len(server.asked) == 4
    assert len({body for _, _, body in server.asked}) == 1


@pytest.mark.parametrize("answer", [CLOSED, CUT])
def test_a_server_that_always_closes_the_connection_is_not_asked_for_ever(serve, answer):
    server = serve(answer)
    with pytest.raises(ServerError, match="no answer"):
        Client(server.url).model()
    assert len(server.asked) == 4


def test_patience_ends(serve):
    server = serve((503, {"Retry-After": "9"}, b""))
    with pytest.raises(ServerError) as e:
        Client(server.url, patience_s=8).predict({"text": "a"})
    assert e.value.status == 503
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [301, 400, 401, 404, 413, 422, 429, 500, 504])
def test_nothing_else_is_tried_again_or_followed(serve, status):
    server = serve((status, {"Location": "/elsewhere", "Retry-After": "0"}, b"no"))
    with pytest.raises(ServerError, match=f"{status} no$"):
        Client(server.url).model()
    assert len(server.asked) == 1


def test_a_problem_is_told_in_the_servers_words(serve):
    problem = {"title": "Rejected", "detail": "not an image", "stage": "preprocess", "status": 422}
    server = serve((422, {}, json.dumps(problem).encode()))
    with pytest.raises(ServerError, match=r"422 Rejected: not an image$") as e:
        Client(server.url).predict({"image": b"x"})
    assert e.value.problem == problem


def test_batches_keep_order_and_number_on(serve):
    def lines(count):
        return 200, {}, b"\n".join(b'{"index": %d}' % i for i in range(count))

    server = serve(lines(2), lines(2), lines(1))
    answers = Client(server.url).predict_batch(({"text": str(i)} for i in range(5)), batch_rows=2)
    assert [answer["index"] for answer in answers] == [0, 1, 2, 3, 4]
    assert [body.count(b"\n") + 1 for _, _, body in server.asked] == [2, 2, 1]


def test_nobody_there_is_said_with_the_place():
    with pytest.raises(
        ServerError, match=r"http://127\.0\.0\.1:1: no answer .*check that the server runs there"
    ):
        Client("http://127.0.0.1:1").model()


def test_what_is_no_url_and_what_is_no_file_is_said(tmp_path):
    with pytest.raises(UsageError, match="localhost:8000: not the URL of a server"):
        Client("localhost:8000")
    with pytest.raises(UsageError, match=r"none\.png: cannot be read"):
        Client().predict({"image": tmp_path / "none.png"})


@pytest.mark.parametrize("token", ["", " ", "\n"])
def test_a_blank_token_is_refused_before_anything_is_sent(token):
    with pytest.raises(UsageError, match="token is blank"):
        Client(token=token)


def test_a_token_read_from_a_file_may_end_its_line(serve):
    server = serve(ok(label="cat"))
    Client(server.url, token="secret\n").predict({"text": "a"})
    assert server.asked[0][1]["Authorization"] == "Bearer secret"
