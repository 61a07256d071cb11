"""`jobs/submit.py` against a head that is not ready: a server with the few routes of Ray's job API."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import ray
from ray.exceptions import AuthenticationError
from support.scripts import load_script

submit = load_script("jobs/submit.py")


class Head(ThreadingHTTPServer):
    """Answers submissions with `answers`, one after the other, the last one for ever; None: hangs up."""

    def __init__(self, answers, port=0):
        super().__init__(("127.0.0.1", port), Routes)
        self.answers, self.jobs, self.files = list(answers), [], []

    def next_answer(self):
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Routes(BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.path == "/api/version"
        self._answer(200 if known else 404, json.dumps({"ray_version": ray.__version__}))

    def do_PUT(self):
        self.server.files.append(self._body())
        self._answer(200, "")

    def do_POST(self):
        job = json.loads(self._body())
        answer = self.server.next_answer()
        if answer is None or answer[0] == 200:
            self.server.jobs.append(job)
        if answer is None:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        status, text = answer
        names = {"job_id": job["submission_id"], "submission_id": job["submission_id"]}
        self._answer(status, text.format(**names) if text else json.dumps(names))

    def _body(self):
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _answer(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


@contextmanager
def answering(*answers, port=0) -> Iterator[tuple[Head, str]]:
    with Head(answers, port) as head:
        threading.Thread(target=head.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield head, f"http://127.0.0.1:{head.server_port}"
        finally:
            head.shutdown()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(submit, "AGAIN_S", 0.02)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


TAKEN = (200, "")
NO_AGENT = (500, "No available agent to submit job, please try again later.")


def test_a_head_without_its_agent_is_asked_again_until_it_takes_the_job():
    with answering(NO_AGENT, NO_AGENT, TAKEN) as (head, address):
        _, job = submit.submit(address, ["--input", "s3://a b/c", "--output", "s3://d"], 30)
    assert [taken["submission_id"] for taken in head.jobs] == [job]
    assert head.jobs[0]["entrypoint"] == "mmray run --input 's3://a b/c' --output s3://d"


def test_a_head_that_does_not_listen_yet_is_waited_for():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found = []
    waiting = threading.Thread(
        target=lambda: found.append(submit.submit(f"http://127.0.0.1:{port}", ["--output", "s3://d"], 30))
    )
    waiting.start()
    time.sleep(0.2)
    assert not found
    with answering(TAKEN, port=port) as (head, _):
        waiting.join(30)
    assert [taken["submission_id"] for taken in head.jobs] == [found[0][1]]


def test_the_config_travels_and_nothing_beside_it(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("actors: 8\n")
    (tmp_path / "secret").write_text("for nobody")
    with answering(TAKEN) as (head, address):
        submit.submit(address, [str(config), "--output", "s3://d"], 0)
    assert head.jobs[0]["entrypoint"] == "mmray run run.yaml --output s3://d"
    assert head.jobs[0]["runtime_env"]["working_dir"].startswith("gcs://")
    (package,) = head.files
    assert b"run.yaml" in package
    assert b"secret" not in package


def test_a_job_whose_answer_was_lost_is_not_run_twice():
    taken_before = (500, "Request failed with status code 400: {submission_id} already exists. Use another.")
    with answering(None, taken_before) as (head, address):
        _, job = submit.submit(address, ["--output", "s3://d"], 30)
    assert [taken["submission_id"] for taken in head.jobs] == [job]


@pytest.mark.parametrize("answer", [(400, "no such field"), (500, "Request failed with status code 400: no")])
def test_a_job_that_is_refused_for_good_is_not_tried_again(answer):
    with answering(answer, TAKEN) as (head, address), pytest.raises(RuntimeError, match="status code 400"):
        submit.submit(address, [], 30)
    assert not head.jobs


def test_a_wrong_token_is_not_tried_again():
    with answering((401, "Unauthorized"), TAKEN) as (head, address), pytest.raises(AuthenticationError):
        submit.submit(address, [], 30)
    assert not head.jobs


def test_the_wait_is_bounded_and_says_what_was_missing():
    with (
        answering(NO_AGENT) as (_, address),
        pytest.raises(TimeoutError, match="No available agent") as error,
    ):
        submit.submit(address, [], 0)
    assert address in str(error.value)
