"""`mmray bench-serve` with the real server that it starts and ends."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.bundles import small_bundle
from support.processes import of_session, wait_for_none

pytestmark = pytest.mark.long
MMRAY = Path(sys.executable).with_name("mmray")


@contextlib.contextmanager
def sweeping(shards, *options):
    """The command; whatever it started is killed at the end."""
    words = [MMRAY, "bench-serve", str(small_bundle().path), "--input", str(shards)]
    words += ["--replicas", "1", "--batch-rows", "4", "--wait-ms", "0", "--requests", "368", *options]
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_ADDRESS", "OMP_"))}
    process = subprocess.Popen(
        words, env=keep, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_it_says_which_setting_holds_and_how_it_is_started(shards, tmp_path):
    plot = tmp_path / "sweep.png"
    with sweeping(shards, "--p99-ms", "400", "--plot", str(plot)) as process:
        out, err = process.communicate(timeout=280)
        assert process.returncode == 0, out + err
        wait_for_none(process.pid)
    told = json.loads(out.splitlines()[-1])
    assert told["command"].endswith("--replicas 1 --set batch_rows=4 --set batch_wait_s=0 --variant auto")
    [one] = told["settings"]
    assert told["best_per_s"] == one["held"]["asked_per_s"] > 1
    assert one["held"]["p99_high_ms"] <= 400
    assert one["steps"][-1] == one["held"]  # the best rate was tried once more
    assert sum(step["asked_per_s"] == told["best_per_s"] for step in one["steps"]) == 2
    assert told["command"] in " ".join(out.split())
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_target_that_nothing_holds_ends_with_1(shards):
    with sweeping(shards, "--p99-ms", "0.1") as process:
        out, err = process.communicate(timeout=280)
    assert process.returncode == 1, out + err
    assert json.loads(out.splitlines()[-1])["command"] is None
    assert err.startswith("error: no setting holds a p99 of 0.1 ms")


def test_ctrl_c_ends_the_server_too(shards):
    with sweeping(shards, "--p99-ms", "10000") as process:
        deadline = time.monotonic() + 120
        while "p50" not in (line := process.stdout.readline()):
            assert line, process.stderr.read()
            assert time.monotonic() < deadline
        assert any(b"raylet/raylet " in words for words in of_session(process.pid).values())
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, len(err.splitlines())) == (130, 1), err
        wait_for_none(process.pid)
