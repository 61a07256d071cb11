"""`mmray serve` as its user starts it: on a Ray of its own, behind either ingress, until Ctrl-C."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from support.bundles import small_bundle

RECORDS = 256  # of a batch
MMRAY = Path(sys.executable).with_name("mmray")


@contextlib.contextmanager
def serving(log, **environment):
    """`mmray serve` of the small bundle; its process and URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "OMP_"))}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [MMRAY, "serve", str(small_bundle().path), "--port", str(port)],
            env=keep | environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 90
        while "is served at" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield process, url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def post(url, lines):
    headers = {"Content-Type": "application/x-ndjson"}
    return httpx.post(url, content=lines, headers=headers, timeout=60)


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


@pytest.mark.skipif(sys.platform != "linux", reason="Ray ships HAProxy for Linux")
def test_behind_haproxy_it_listens_at_one_place_and_finishes_what_was_begun(tmp_path):
    """Ctrl-C while eight batches are computed: each is answered whole."""
    log = tmp_path / "log"
    with serving(log) as (process, url):
        port = int(url.rpartition(":")[2])
        proxies = haproxies(port)
        assert proxies
        assert set.union(*proxies.values()) == {("0100007F", port)}
        lines = "".join('{"text": "a red cat"}\n' for _ in range(RECORDS))
        with ThreadPoolExecutor(8) as threads:
            asked = [threads.submit(post, f"{url}/v1/predict/batch", lines) for _ in range(8)]
            time.sleep(0.05)
            assert not all(answer.done() for answer in asked)
            process.send_signal(signal.SIGINT)
            answers = [answer.result() for answer in asked]
        assert [answer.status_code for answer in answers] == [200] * 8
        assert {answer.text.count('"label"') for answer in answers} == {RECORDS}
        assert process.wait(timeout=60) == 0, log.read_text()
    assert not haproxies(port)
    assert log.read_text().splitlines()[-1] == "finishing what was begun"


@pytest.mark.long
def test_serves_own_proxy_is_taken_where_it_is_asked_for(tmp_path):
    with serving(tmp_path / "log", RAY_SERVE_ENABLE_HA_PROXY="0") as (process, url):
        assert not haproxies(int(url.rpartition(":")[2]))
        assert httpx.post(f"{url}/v1/predict", json={"text": "a red cat"}).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
