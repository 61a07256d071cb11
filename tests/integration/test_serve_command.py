"""`mmray serve` as its user starts it: on a Ray of its own, behind either ingress, to its end of any kind."""

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from support.processes import of_session, serve_command, serving, wait_for_none

RECORDS = 64  # of a batch


def begin(port):
    """A connection over which a batch was sent; its answer is still to come."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    lines = RECORDS * b'{"text": "a red cat"}\n'
    connection.request("POST", "/v1/predict/batch", lines, {"Content-Type": "application/x-ndjson"})
    return connection


def haproxies(port):
    """Pids of the HAProxies that listen at a port, and where each of them listens: (hex address, port)."""
    listening = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A":  # LISTEN
            address, _, number = fields[1].partition(":")
            listening[fields[9]] = (address, int(number, 16))
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.joinpath("comm").read_text().strip() == "haproxy":
                links = [str(fd.readlink()) for fd in process.joinpath("fd").iterdir()]
                inodes = [m[1] for link in links if (m := re.fullmatch(r"socket:\[(\d+)\]", link))]
                found[int(process.name)] = {listening[i] for i in inodes if i in listening}
    return {pid: places for pid, places in found.items() if any(p == port for _, p in places)}


linux = pytest.mark.skipif(sys.platform != "linux", reason="Ray ships HAProxy for Linux")


@linux
def test_behind_haproxy_it_listens_at_one_place_and_finishes_what_was_begun(tmp_path):
    """SIGTERM while eight batches are computed: each is answered whole. Who wants its port is told of it."""
    log = tmp_path / "log"
    with serving(log) as (process, url):
        port = int(url.rpartition(":")[2])
        proxies = haproxies(port)
        assert proxies
        assert set.union(*proxies.values()) == {("0100007F", port)}
        second = subprocess.run(serve_command(port), capture_output=True, text=True, timeout=60)
        assert second.returncode == 2
        assert f"stop it with `kill {process.pid}`" in second.stderr
        assert len(second.stderr.splitlines()) == 1
        with contextlib.ExitStack() as ends:
            asked = [ends.enter_context(contextlib.closing(begin(port))) for _ in range(8)]
            process.send_signal(signal.SIGTERM)
            answers = [connection.getresponse() for connection in asked]
            assert [answer.status for answer in answers] == [200] * 8
            assert {answer.read().count(b'"label"') for answer in answers} == {RECORDS}
        assert process.wait(timeout=60) == 0, log.read_text()
        wait_for_none(process.pid)
    assert log.read_text().splitlines()[-1] == "finishing open requests"


def kill_ray(process):
    for pid, words in of_session(process.pid).items():
        if b"raylet/raylet " in words or b"gcs_server " in words:
            os.kill(pid, signal.SIGKILL)


def kill_group(process):
    """As `timeout` does, and a terminal that closes: Ray's own processes hear of it, its workers do not."""
    os.killpg(process.pid, signal.SIGTERM)


@linux
@pytest.mark.parametrize(
    ("end", "code"),
    [
        pytest.param(kill_ray, 3, marks=pytest.mark.long),
        pytest.param(subprocess.Popen.kill, -signal.SIGKILL, marks=pytest.mark.long),
        pytest.param(kill_group, 0, marks=pytest.mark.long),
    ],
    ids=["ray-dies", "killed", "group-terminated"],
)
def test_nothing_that_it_started_outlives_it(tmp_path, end, code):
    log = tmp_path / "log"
    with serving(log) as (process, _):
        assert any(b"haproxy.cfg" in words for words in of_session(process.pid).values())
        said = len(log.read_text().splitlines())
        end(process)
        assert process.wait(timeout=60) == code, log.read_text()
        wait_for_none(process.pid)
    more = log.read_text().splitlines()[said:]
    assert len(more) == (0 if code < 0 else 1), more


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_it_serves_ends_it_with_one_line(tmp_path, number):
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            serve_command(1 + (os.getpid() % 1000) + 20_000), stdout=file, stderr=file, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 90
        while not any(b"raylet/raylet " in words for words in of_session(process.pid).values()):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(timeout=60) == 130
        wait_for_none(process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert log.read_text().splitlines() == ["error: interrupted before the server was ready"]


@pytest.mark.long
def test_serves_own_proxy_is_taken_where_it_is_asked_for(tmp_path):
    with serving(tmp_path / "log", RAY_SERVE_ENABLE_HA_PROXY="0") as (process, url):
        assert not haproxies(int(url.rpartition(":")[2]))
        assert httpx.post(f"{url}/v1/predict", json={"text": "a red cat"}).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
