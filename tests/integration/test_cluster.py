"""Clusters: jobs/submit.py against a head with token authentication."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from support.scripts import ROOT, SHARDS

RAY = str(Path(sys.executable).with_name("ray"))
DASHBOARD = "http://127.0.0.1:28265"
SUBMIT = (sys.executable, "jobs/submit.py", "--address", DASHBOARD)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A head on loopback, with a token, that has just been started; the environment that reaches it."""
    tmp_path = tmp_path_factory.mktemp("head")
    token = tmp_path / "token"
    token.write_text("0123456789abcdef" * 4)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # as in an activated environment
    environment = {**os.environ, "PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    environment.pop("RAY_ADDRESS", None)
    command = [RAY, "start", "--head", "--block", "--num-cpus=2", "--port=26379", "--dashboard-port=28265"]
    # The session's cluster beside it may hold the agent's default port; a head without an agent takes no job.
    command += ["--dashboard-agent-listen-port=28266", "--dashboard-agent-grpc-port=28267"]
    short = tempfile.mkdtemp(prefix="ray-")  # paths of sockets may have 107 bytes
    command += ["--node-ip-address=127.0.0.1", f"--temp-dir={short}", "--disable-usage-stats"]
    with (tmp_path / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield environment
    finally:
        process.terminate()  # `--block` ends what it started
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(short, ignore_errors=True)


def test_a_submitted_job_predicts_what_a_local_run_predicts(head, shards, bundle, tmp_path):
    from mmray.config import RunConfig
    from mmray.predictor import Predictor, open_preprocessor
    from mmray.sources import ReadOptions, list_shards, read

    output = tmp_path / "out"
    command = [*SUBMIT, "jobs/configs/batch.yaml", "--input", str(shards)]
    command += ["--bundle", str(bundle.path), "--output", str(output)]
    done = subprocess.run(command, env=head, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"240 = 240 predicted + 0 rejected in {SHARDS} shards, audit clean" in done.stdout

    submitted = {
        (row["shard"], row["row"]): row
        for row in ds.dataset(output / "parts").to_table(["shard", "row", "label", "scores"]).to_pylist()
    }
    preprocess, predict = open_preprocessor(bundle), Predictor(bundle, batch_rows=5)
    assert RunConfig.model_fields["batch_rows"].default != 5
    for shard in list_shards([str(shards)]):
        for records in read(shard, ReadOptions()):
            for row in predict(preprocess(records)).to_pylist():
                other = submitted.pop((row["shard"], row["row"]))
                assert other["label"] == row["label"]
                assert other["scores"] == pytest.approx(row["scores"], abs=1e-5)
    assert not submitted


def test_a_run_that_fails_gives_its_exit_code(head, tmp_path):
    command = [
        *SUBMIT,
        "--input",
        str(tmp_path / "nothing"),
        "--bundle",
        "b",
        "--output",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, env=head, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "error:" in done.stdout


def test_without_the_token_the_head_refuses(head, tmp_path):
    environment = {**head, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "wrong")}
    (tmp_path / "wrong").write_text("f" * 64)
    done = subprocess.run(
        [*SUBMIT, "--output", str(tmp_path)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "RAY_AUTH_MODE=token" in done.stderr
