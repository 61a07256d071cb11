"""docs/client.md as a reader runs it, against a real server."""

import shlex
import subprocess

import pytest
from support.bundles import small_bundle
from support.media import clip, image_bytes
from support.pages import blocks, run_command

DOCUMENTED = "http://127.0.0.1:8000"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "drake.png").write_bytes(image_bytes())
    (tmp_path / "drake.ogg").write_bytes(clip("OGG"))
    (tmp_path / "records.ndjson").write_text('{"text": "A drake."}\n' * 2)
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles/stamps").symlink_to(small_bundle().path)
    return tmp_path


def test_a_record_without_a_server(folder, capsys):
    [(_, text)] = blocks("client.md", "Without a server")
    run_command(*shlex.split(text))
    assert "without audio" in capsys.readouterr().out


def test_each_line_of_curl_gets_an_answer(folder, server):
    [(_, text)] = blocks("client.md", "With curl")
    for line in text.splitlines():
        command = shlex.split(line.replace(DOCUMENTED, server.url))
        done = subprocess.run([*command, "--fail", "--silent"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        assert "label" in done.stdout


def test_the_python_client(folder, server, capsys):
    [(_, text)] = blocks("client.md", "From Python")
    exec(compile(text.replace(DOCUMENTED, server.url), "client.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "b image-undecodable" in printed
    assert printed.endswith("422 image-undecodable\n")
