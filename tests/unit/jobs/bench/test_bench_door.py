"""The door to the benchmarks: it lists what each shows, takes and is expected to give, and runs it."""

import subprocess
import sys

from support.scripts import ROOT

SCRIPTS = sorted(file.stem for file in (ROOT / "jobs/bench").glob("[a-z]*.py"))


def bench(*words):
    command = [sys.executable, "jobs/bench", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_each_is_listed_with_its_command_the_time_it_takes_and_what_is_expected():
    listed = bench().stdout.split("\n\n")
    assert [entry.partition(":")[0] for entry in listed] == SCRIPTS
    assert len(SCRIPTS) > 10
    for name, entry in zip(SCRIPTS, listed, strict=True):
        block = "".join(line for line in entry.splitlines() if line.startswith("    "))
        assert f"python jobs/bench {name}" in block
        assert "#" in block, f"{name}: how long does it take?"
        assert "Expected" in entry


def test_a_name_runs_the_script_with_what_follows():
    done = bench("packed", "--help")
    assert done.returncode == 0, done.stderr
    assert "--bundle" in done.stdout


def test_an_unknown_name_is_answered_with_those_that_there_are():
    done = bench("speed")
    assert done.returncode == 1
    assert "no 'speed'; there are" in done.stderr
    assert "throughput" in done.stderr
