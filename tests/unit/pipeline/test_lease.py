"""One run at a time writes to a directory; the dead are taken over, and can write no more."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from threading import Barrier

import pytest

from mmray.errors import OutputError, RunError
from mmray.pipeline import lease
from mmray.pipeline.lease import Holder, held
from mmray.pipeline.rundir import RunDirectory

HOLD = """
import sys
from mmray.pipeline.lease import held
from mmray.pipeline.rundir import RunDirectory
with held(RunDirectory.at(sys.argv[1]), print):
    print("held", flush=True)
    sys.stdin.read()
"""
TAKE_TURNS = """
import os, sys, time
from mmray.errors import OutputError
from mmray.pipeline.lease import held
from mmray.pipeline.rundir import RunDirectory
turns = 0
for _ in range(40):
    try:
        with held(RunDirectory.at(sys.argv[1]), print):
            os.close(os.open(sys.argv[2], os.O_CREAT | os.O_EXCL))  # fails where somebody else is within
            time.sleep(.005)
            os.unlink(sys.argv[2])
            turns += 1
    except OutputError:
        time.sleep(.005)
print(turns)
"""


def start(program, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def place(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def holder(place):
    """Another process that holds the directory."""
    process = start(HOLD, place)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def claims(place):
    return sorted((place / "leases").glob("*.claim"))


def test_a_second_run_is_refused_by_the_name_of_the_first_and_changes_nothing(holder, place):
    before = claims(place)
    refusal = rf"process {holder.pid} of \S+, since \S+, uses it; wait for it, stop it"
    with pytest.raises(OutputError, match=refusal), held(RunDirectory.at(str(place)), print):
        pass
    assert claims(place) == before


def test_a_run_that_is_told_to_waits_for_the_first_and_says_so_once(holder, place, monkeypatch):
    monkeypatch.setattr(lease, "_BEAT_S", 0.05)
    said = []

    def say(words):
        said.append(words)
        threading.Timer(0.5, holder.communicate, [""]).start()  # so that it ends

    with held(RunDirectory.at(str(place)), say, wait_s=60) as out:
        holder.wait()
        out.check_lease()
    assert len(said) == 1
    assert re.match(rf"waits up to 60 s: \S+: process {holder.pid} of \S+, since \S+, uses it$", said[0])


def test_after_that_time_it_is_refused(holder, place, monkeypatch):
    monkeypatch.setattr(lease, "_BEAT_S", 0.05)
    said = []
    with pytest.raises(OutputError, match=f"process {holder.pid}"):  # noqa: SIM117
        with held(RunDirectory.at(str(place)), said.append, wait_s=0.3):
            pass
    assert len(said) == 1


def test_it_is_free_again_afterwards(holder, place):
    holder.communicate("")
    assert not [*(place / "leases").iterdir()]
    with held(RunDirectory.at(str(place)), pytest.fail) as out:
        out.check_lease()


def test_a_killed_run_is_taken_over_with_a_word_and_can_write_no_more(holder, place):
    (claim,) = claims(place)
    stale = RunDirectory.at(str(place), str(claim))
    stale.check_lease()
    holder.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # a zombie, whose parent was not told yet
    said = []
    with held(RunDirectory.at(str(place)), said.append) as out:
        assert said == [f"took over from {out_of(claim, said)}, which has ended"]
        out.check_lease()
        with pytest.raises(RunError, match="another run has taken it over"):
            stale.check_lease()


def out_of(claim, said):
    """Who held it, as it was said: the claim itself is gone."""
    assert not claim.exists()
    return said[0].removeprefix("took over from ").removesuffix(", which has ended")


def test_of_many_that_begin_at_the_same_time_never_two_are_within(place, tmp_path):
    processes = [start(TAKE_TURNS, place, tmp_path / "within") for _ in range(3)]
    turns = [int(process.communicate()[0].splitlines()[-1]) for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert sum(turns) > 0


@pytest.fixture
def foreign(place, monkeypatch):
    """A claim of another machine, and how it beats."""
    monkeypatch.setattr(lease, "_SILENT_S", 1.0)
    monkeypatch.setattr(lease, "_POLL_S", 0.05)
    (place / "leases").mkdir(parents=True)
    there = replace(Holder.this(), host="elsewhere", machine="another one")
    claim = place / "leases/0123456789ab.claim"
    claim.write_text(json.dumps(asdict(there)))
    claim.with_suffix(".beat").write_text("0")
    return claim


def test_a_silent_run_of_another_machine_is_taken_over_after_a_while(foreign, place):
    said = []
    with held(RunDirectory.at(str(place)), said.append):
        assert "waits up to 1 s to see whether process" in said[0]
        assert said[1].startswith(f"took over from process {os.getpid()} of elsewhere")
        assert not foreign.exists()


def test_a_run_of_another_machine_that_beats_is_left_alone(foreign, place):
    def beat(_):
        foreign.with_suffix(".beat").write_text("1")

    with pytest.raises(OutputError, match="elsewhere"), held(RunDirectory.at(str(place)), beat):
        pass
    assert claims(place) == [foreign]


def test_whoever_lost_its_claim_beats_no_more(place, monkeypatch):
    monkeypatch.setattr(lease, "_BEAT_S", 0.05)
    with held(RunDirectory.at(str(place)), print):
        (claim,) = claims(place)
        claim.unlink()
        lease.sleep(0.3)
        beat = claim.with_suffix(".beat")
        beat.unlink(missing_ok=True)
        lease.sleep(0.3)
        assert not beat.exists()


def test_on_a_store_too(store):
    place = store.url("run")
    with held(RunDirectory.at(place), print) as out:
        out.check_lease()
        with pytest.raises(OutputError, match=f"process {os.getpid()}"), held(RunDirectory.at(place), print):
            pass
    with held(RunDirectory.at(place), pytest.fail):
        pass


def race(url, runs):
    """How many of several that start at the same instant get in, while each that does stays."""
    start, decided, within = Barrier(runs), Barrier(runs), []

    def act(number):
        start.wait()
        try:
            with held(RunDirectory.at(url), print):
                within.append(number)
                decided.wait()
        except OutputError:
            decided.wait()

    with ThreadPoolExecutor(runs) as pool:
        list(pool.map(act, range(runs)))
    return len(within)


def test_of_two_that_start_at_once_on_a_store_one_gets_in(store, monkeypatch):
    monkeypatch.setattr(lease, "_POLL_S", 0.2)
    assert [race(store.url("run"), 2) for _ in range(4)] == [1] * 4


LISTING = r"list-type=2|/o\?|comp=list"


def test_two_of_a_store_that_lists_late_do_not_both_get_in(store, monkeypatch):
    """Listings alone cannot keep them apart then: what decides is that an object is created once."""
    monkeypatch.setattr(lease, "_POLL_S", 0.2)
    leases = RunDirectory.at(store.url("run")).leases
    leases.make_directory()
    assert leases.files() == []
    late = store.fail("stale", 100_000, "GET", LISTING)
    assert race(store.url("run"), 2) == 1
    assert late.made


@pytest.mark.parametrize("place", ["/proc/nothing/out", "{file}/out"])
def test_a_place_that_cannot_be_written_to_is_named(tmp_path, place):
    (tmp_path / "file").write_text("mine")
    out = RunDirectory.at(place.format(file=tmp_path / "file"))
    with pytest.raises(OutputError, match=r"cannot be written .*choose another --output"), held(out, print):
        pass
    assert Path(tmp_path / "file").read_text() == "mine"
