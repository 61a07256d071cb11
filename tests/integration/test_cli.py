"""The commands as a user types them: what they print, and their exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.scripts import ROOT, SHARDS
from support.tars import write_shard

USAGE, FAILED = 2, 1


def mmray(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("mmray")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "{none}", "--bundle", "{bundle}"], "not found; check --input"),
        (["--input", "{empty}", "--bundle", "{bundle}"], "no shards"),
        (["--input", "{shards}", "--bundle", "{none}"], "not a bundle"),
        (
            ["--input", "{shards}", "--bundle", "{bundle}", "--set", "bach_rows=2"],
            "did you mean 'batch_rows'?",
        ),
        (["--input", "{shards}", "--bundle", "{bundle}", "--set", "batch_rows=many"], "'batch_rows'"),
        (
            ["--input", "{shards}", "--bundle", "{bundle}", "--set", "limits.audio=2"],
            "did you mean 'limits.audio_s'?",
        ),
        (["--input", "{shards}", "--bundle", "{bundle}", "--set", "variant=int4"], "no variant 'int4'"),
        (["--bundle", "{bundle}"], "'input' is missing"),
        (["{none}", "--bundle", "{bundle}"], "cannot read this config"),
    ],
)
def test_bad_input_is_one_line_with_a_remedy_and_touches_nothing(
    arguments, message, shards, bundle, tmp_path
):
    (tmp_path / "empty").mkdir()
    places = {"none": tmp_path / "none", "empty": tmp_path / "empty", "shards": shards, "bundle": bundle.path}
    output = tmp_path / "out"
    done = mmray("run", *[a.format(**places) for a in arguments], "--output", output)
    assert done.returncode == USAGE
    errors = done.stderr.strip().splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert message in errors[0]
    assert not output.exists()


def test_a_foreign_output_directory_is_refused(shards, bundle, tmp_path):
    (tmp_path / "letters.txt").write_text("mine")
    done = mmray("run", "--input", shards, "--bundle", bundle.path, "--output", tmp_path)
    assert done.returncode == USAGE
    assert "no plan.json" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["letters.txt"]


def test_run_plan_audit_from_a_config_file(shards, bundle, tmp_path, cluster_address, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", cluster_address)  # the next test starts a cluster of its own
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump({"input": str(shards), "bundle": str(bundle.path), "carry": "label"}))
    output = tmp_path / "out"
    planned = mmray("plan", config, "--output", output, "--json")
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["shards_to_do"] == SHARDS
    assert not output.exists()

    done = mmray("run", config, "--output", output)
    assert done.returncode == 0, done.stderr
    assert f"240 = 240 predicted + 0 rejected in {SHARDS} shards, audit clean" in done.stdout
    assert not done.stderr
    assert f"{output}/report.html" in done.stdout
    assert "Clean: 240 rows = 240 predicted + 0 rejected" in (output / "report.html").read_text()

    assert json.loads(mmray("plan", config, "--output", output, "--json").stdout)["done_rows"] == 240
    audited = mmray("audit", output, "--json", "--recount")
    assert audited.returncode == 0
    assert json.loads(audited.stdout)["predicted"] == 240

    (output / "report.html").unlink()
    written = mmray("report", output, "--labels", "label", "--gallery", 3)
    assert written.returncode == 0, written.stderr
    assert (output / "report.html").read_text().count("data:image/jpeg") == 3
    two = mmray("report", output, output)
    assert two.returncode == USAGE
    assert "name the page with --html FILE" in two.stderr

    next((output / "parts").iterdir()).unlink()
    broken = mmray("audit", output)
    assert broken.returncode == FAILED
    assert "are not done; run again to resume" in broken.stdout


def test_too_many_rejects_decide_the_exit_code_and_nothing_else(
    bundle, tmp_path, cluster_address, monkeypatch
):
    monkeypatch.setenv("RAY_ADDRESS", cluster_address)
    texts = [b"a red cat", b"caf\xe9 au lait"]
    write_shard(tmp_path / "in/a.tar", [(f"k{i}", {"txt": text}) for i, text in enumerate(texts)])
    arguments = ("--input", tmp_path / "in", "--bundle", bundle.path, "--output", tmp_path / "out")
    done = mmray("run", *arguments, "--set", "max_reject_rate=0")
    assert done.returncode == FAILED
    assert "max_reject_rate is 0" in done.stderr
    assert mmray("audit", tmp_path / "out").returncode == 0


def test_a_shard_that_breaks_off_decides_the_exit_code_whatever_the_rate(bundle, tmp_path):
    """Here with a Ray that it starts and ends itself."""
    shard = write_shard(tmp_path / "in/a.tar", [(f"k{i}", {"txt": b"a red cat"}) for i in range(300)])
    shard.write_bytes(shard.read_bytes()[: 3 * 1024 + 100])
    arguments = ("--input", tmp_path / "in", "--bundle", bundle.path, "--output", tmp_path / "out")
    done = mmray("run", *arguments, "--set", "max_reject_rate=1")
    assert done.returncode == FAILED
    assert "shard fault: a.tar: shard-truncated at row 2: " in " ".join(done.stdout.split())
    assert "1 shard fault: an unknown number of records is lost there" in " ".join(done.stderr.split())
    assert f"intact copies, then run `mmray retry {tmp_path / 'out'}`" in " ".join(done.stderr.split())
    assert mmray("audit", tmp_path / "out").returncode == FAILED


def test_a_bundle_is_shown_and_verified(bundle):
    shown = mmray("bundle", "inspect", bundle.path)
    assert shown.returncode == 0
    assert bundle.digest[:12] in shown.stdout
    verified = mmray("bundle", "verify", bundle.path)
    assert verified.returncode == 0, verified.stderr
    assert "golden outputs reproduced" in verified.stdout


def test_doctor_tells_memory_and_where_each_node_of_a_bundle_runs(bundle):
    done = mmray("doctor", "--json", "--bundle", str(bundle.path))
    found = {finding["subject"]: finding["message"] for finding in json.loads(done.stdout)}
    assert re.fullmatch(r"[\d.]+ of [\d.]+ GB are available.*", found["memory"])
    assert re.fullmatch(r"fp32: \d+ nodes on cpu, none elsewhere", found["placement"])


def test_doctor_finds_this_machine_fit():
    done = mmray("doctor", "--json")
    assert done.returncode == 0, done.stdout
    assert {"onnxruntime", "provider", "disk"} <= {finding["subject"] for finding in json.loads(done.stdout)}
