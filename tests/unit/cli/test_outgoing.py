"""What a command writes: into new folders, no work for nothing, and to readers that stop reading."""

import subprocess
import sys

import pytest
from support.bundles import small_bundle
from support.outcomes import begin, rows_of, shard, write
from typer.testing import CliRunner

from mmray.cli import app
from mmray.cli.outgoing import check_file
from mmray.errors import UsageError

MMRAY = [sys.executable, "-m", "mmray"]


def test_the_folder_of_a_page_is_made(tmp_path):
    page = tmp_path / "new/folder/compared.html"
    shown = CliRunner().invoke(app, ["bundle", "compare", str(small_bundle().path), "--html", str(page)])
    assert shown.exit_code == 0, shown.output
    assert "</html>" in page.read_text()


@pytest.mark.parametrize("command", [["bundle", "compare", "{bundle}"], ["report", "{run}"]])
def test_a_page_that_cannot_be_written_is_refused_by_name(tmp_path, command):
    (tmp_path / "file").write_text("")
    names = {"bundle": str(small_bundle().path), "run": str(tmp_path / "run")}
    page = tmp_path / "file/compared.html"
    shown = CliRunner().invoke(app, [*(word.format(**names) for word in command), "--html", str(page)])
    assert isinstance(shown.exception, UsageError)
    assert f"--html {page}: cannot make the directory" in str(shown.exception)
    assert "variant" not in shown.output  # no work was done


def test_a_directory_is_no_file_to_write(tmp_path):
    with pytest.raises(UsageError, match="name a file in it"):
        check_file("--html", tmp_path)


def test_an_audit_whose_reader_stops_reading_still_says_by_its_exit_code_whether_it_passed(tmp_path):
    """`mmray audit OUT | head -1`: exit code 1 would say that the audit failed."""
    codes = []
    for done in (range(10), range(9)):  # the second run lacks a row
        one = shard("a.tar", 10)
        out = begin(tmp_path / f"run-{len(done)}", one)
        write(out, rows_of(one, done))
        with subprocess.Popen(
            [*MMRAY, "audit", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as command:
            command.stdout.close()  # before anything is written
            said = command.stderr.read()
        codes.append(command.returncode)
        assert "Traceback" not in said
    assert codes == [0, 1]
    assert f"error: {out}: 1 problem" in said
