"""The driver dies, or is told to end, in the middle of a run: nothing is lost, nothing comes twice."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from dataclasses import replace

import pytest
from support.cascades import cascaded

from mmray.pipeline.audit import audit
from mmray.pipeline.rundir import RunDirectory


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.long)])
def test_kills_of_the_driver_lose_and_double_nothing(command, undisturbed, kills):
    chance = random.Random(0)
    for _ in range(kills):
        process = command.start()
        command.wait_for_parts(process, len(command.parts()) + chance.randint(1, 3))
        time.sleep(chance.uniform(0, 0.6 / kills))  # all kills within one run
        assert process.poll() is None, "the run ended before it was killed: give it more records"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    command.finish(command.start())
    assert audit(RunDirectory.at(str(command.output)), recount=True).ok
    assert command.predictions().equals(undisturbed)
    assert not list(command.output.rglob(".tmp-*"))


def test_a_second_try_waits_for_the_first_and_takes_over_where_it_died(command, undisturbed):
    """As where a job is started anew while its old driver is not gone yet."""
    first = command.start()
    command.wait_for_parts(first, 2)
    second = command.start("lease_wait_s=300")
    assert second.stdout is not None
    said = iter(second.stdout.readline, "")
    assert any(f"waits up to 300 s: {command.output}: process {first.pid}" in line for line in said)
    assert first.poll() is None, "the first run ended before: give it more records"
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    out = command.finish(second)
    assert f"took over from process {first.pid}" in out
    assert audit(RunDirectory.at(str(command.output)), recount=True).ok
    assert command.predictions().equals(undisturbed)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_try_on_another_machine_resumes_once_the_dead_one_was_silent_for_30_s(command, undisturbed):
    """The same machine, in whose lease another one's name is written."""
    first = command.start()
    command.wait_for_parts(first, 2)
    (claim,) = (command.output / "leases").glob("*.claim")
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    claim.write_text(json.dumps(json.loads(claim.read_text()) | {"machine": "another one"}))
    out = command.finish(command.start("lease_wait_s=300"))
    assert "waits up to 30 s to see whether process" in " ".join(out.split())
    assert f"took over from process {first.pid}" in out
    assert audit(RunDirectory.at(str(command.output)), recount=True).ok
    assert command.predictions().equals(undisturbed)


@pytest.mark.long
def test_a_cascade_that_is_killed_and_resumed_gives_the_same(command, tmp_path):
    """Also which records were answered early, by what, and how surely."""
    bundle = cascaded(tmp_path / "cascaded", 0.3, parent=command.bundle)
    calm, killed = (replace(command, bundle=bundle, output=tmp_path / name) for name in ("calm", "killed"))
    calm.finish(calm.start("variant=cascade"))
    process = killed.start("variant=cascade")
    killed.wait_for_parts(process, 3)
    assert process.poll() is None, "the run ended before it was killed: give it more records"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    killed.finish(killed.start("variant=cascade"))
    assert audit(RunDirectory.at(str(killed.output)), recount=True).ok
    assert len(set(calm.predictions()["stage"].to_pylist())) == 2
    assert killed.predictions().equals(calm.predictions())


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.long), (signal.SIGTERM, 3)]
)
def test_an_interrupted_run_says_how_to_go_on_and_does(command, undisturbed, number, code):
    process = command.start()
    command.wait_for_parts(process, 2)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in err
    assert err.count("error: ") == 1
    assert "the same command resumes" in err
    kept = {part.name for part in command.parts()}
    command.finish(command.start())
    assert kept <= {part.name for part in command.parts()}
    assert command.predictions().equals(undisturbed)
