"""The wheel has all that it needs, where there is no checkout."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from support.pages import blocks
from support.scripts import ROOT

from mmray.client import Client

#: To the server of the last program of docs/python.md.
ASK = """
import json
from urllib.request import Request, urlopen

body = json.dumps({"text": "a sitting cat"}).encode()
asked = Request("http://127.0.0.1:8000/stamps/v1/predict", body, {"Content-Type": "application/json"})
print(json.load(urlopen(asked))["label"])
"""


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
    place = tmp_path / "mmray-demo"
    given = ("--input", "data/tuxpaint/test-*.tar", "--bundle", "bundles/stamps", "--output", "runs/mine")
    assert "audit clean" in call(mmray, "run", *given, cwd=place)
    assert predicted_by_server(mmray, place) == "animals"
    call(python, "-m", "pip", "install", "-q", "duckdb", cwd=tmp_path)  # that the page uses alone
    page = place / "page.py"
    page.write_text("\n".join([*(text for _, text in blocks("python.md")), ASK]))
    assert call(python, page, cwd=place).splitlines()[-1] == "animals"


def predicted_by_server(mmray, place):
    """What `mmray serve` answers to a caption."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    command = [mmray, "serve", "bundles/stamps", "--port", url.rpartition(":")[2]]
    with subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, text=True) as server:
        assert "is served at" in server.stdout.readline()
        label = Client(url).predict({"text": "a sitting cat"})["label"]
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=30) == 0
    return label
