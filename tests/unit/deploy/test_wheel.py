"""The wheel has all that it needs, where there is no checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from support.scripts import ROOT


def call(*command, cwd, **environment):
    """Run it as somebody would who has no checkout; its output."""
    kept = {name: os.environ[name] for name in os.environ if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    command = [str(part) for part in command]
    done = subprocess.run(command, cwd=cwd, env=kept | environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", folder)
    call(sys.executable, "-m", "pip", "wheel", *options, ROOT, cwd=folder)
    (file,) = folder.glob("mmray-*.whl")
    return file


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_every_file_of_the_package_is_in_it(unpacked):
    listed = subprocess.check_output(["git", "ls-files", "mmray"], cwd=ROOT, text=True).split()
    assert listed
    assert [name for name in listed if (ROOT / name).is_file() and not (unpacked / name).is_file()] == []


@pytest.mark.parametrize(
    "script", ["datasets/tuxpaint.py", "datasets/synthetic.py", "jobs/build_bundle.py", "jobs/held_out.py"]
)
def test_what_the_demo_runs_is_in_it_with_all_that_it_imports(unpacked, tmp_path, script):
    place = unpacked / "mmray/_demo" / script
    said = call(sys.executable, place, "--help", cwd=tmp_path, PYTHONPATH=str(unpacked))
    assert "Usage: " in said
    assert script in (unpacked / "mmray/_demo/jobs/demo.sh").read_text()


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_a_new_environment_with_the_wheel_alone_runs_the_demo_and_again_in_seconds(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    call(python, "-m", "pip", "install", "-q", f"mmray[optimize] @ {wheel.as_uri()}", cwd=tmp_path)
    mmray = tmp_path / "venv/bin/mmray"
    fetched = ROOT / "data/downloads"
    if fetched.is_dir():  # what is there is checked against its digests
        (tmp_path / "mmray-demo/data").mkdir(parents=True)
        (tmp_path / "mmray-demo/data/downloads").symlink_to(fetched)
    assert "audit clean" in call(mmray, "demo", cwd=tmp_path)
    assert (tmp_path / "mmray-demo/runs/demo/report.html").is_file()
    assert "already built" in call(mmray, "demo", cwd=tmp_path)
    installed = Path(call(python, "-c", "import mmray; print(mmray.__file__)", cwd=tmp_path).strip())
    assert installed.is_relative_to(tmp_path / "venv")
