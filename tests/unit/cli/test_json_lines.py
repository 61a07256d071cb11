"""`--log-format json`: every line of standard error is one object, whatever ends the command."""

import json
import logging
import subprocess
import sys
from datetime import datetime

import pytest

from mmray.cli.json_lines import JsonLines


def test_a_line_has_time_level_message_and_run():
    record = logging.makeLogRecord(
        {"msg": "at %s", "args": ("it",), "levelno": 30, "levelname": "WARNING", "created": 0.5}
    )
    record.fields = {"shards": ["a.tar@1"], "lines": "one\ntwo"}
    line = JsonLines("runs/a").format(record)
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.500+00:00",
        "level": "warning",
        "message": "at it",
        "run": "runs/a",
        "shards": ["a.tar@1"],
        "lines": "one\ntwo",
    }


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--input", "gone", "--bundle", "gone", "--output", "{0}", "--log-format", "json"],
        ["serve", "gone", "--log-format", "json"],
    ],
    ids=["run", "serve"],
)
def test_a_refusal_is_an_object_too(tmp_path, words):
    words = [word.format(tmp_path / "out") for word in words]
    command = [sys.executable, "-c", "from mmray.cli import main; main()", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    said = json.loads(line)
    assert said["level"] == "error"
    assert "gone" in said["message"]
    assert datetime.fromisoformat(said["time"]).utcoffset().total_seconds() == 0
