"""Pages of docs/ as a reader runs them: code block after code block, in one folder."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from mmray.cli import app
from support.scripts import ROOT

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page, heading=None):
    """(language, text) of each code block of a page, or of one of its sections."""
    text = (ROOT / "docs" / page).read_text()
    if heading:
        text = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        assert text, f"{page} has no section {heading}"
    return _BLOCK.findall(text)


def run_blocks(found, names):
    """Run blocks in the working folder; Python's share `names`, a YAML block's first line names its file."""
    for language, text in found:
        if language == "python":
            exec(compile(text, "docs", "exec"), names)
        elif language == "yaml":
            Path(text.partition("\n")[0].removeprefix("# ")).write_text(text)
        else:
            assert language == "bash"
            for line in text.splitlines():
                run_command(*shlex.split(line.partition("#")[0]))


def run_command(program, *arguments):
    """`mmray` runs in this process, on the tests' own cluster; it would start one otherwise."""
    if program == "mmray":
        app(list(arguments), standalone_mode=False)
        return
    assert program == "python"
    script, *rest = arguments
    command = [sys.executable, str(ROOT / script), *rest]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
