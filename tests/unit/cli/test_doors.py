"""What the command line says of itself at once, before anything heavy is imported."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from mmray import __version__
from mmray.cli import READABLE, app
from mmray.sources import formats


def test_the_version_is_printed():
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"mmray {__version__}\n")


@pytest.mark.parametrize("command", ["run", "plan"])
def test_the_help_of_input_names_every_format_that_is_read(command):
    done = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "500", "TERM": "dumb"})
    said = " ".join(done.output.replace("│", " ").split())
    assert READABLE in said
    assert [what for what in formats.READABLE if what not in READABLE] == []


def test_help_imports_no_arrow():
    code = "import sys, mmray.cli; print([m for m in ('pyarrow', 'ray', 'onnxruntime') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


@pytest.mark.parametrize("command", ["run", "plan", "serve", "optimize", "train", "bundle import"])
def test_the_help_of_a_command_ends_in_an_example(command):
    done = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert f" mmray {command} " in done.output.partition("Example")[2]


def test_every_shell_is_told_how_to_complete_commands():
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).output
