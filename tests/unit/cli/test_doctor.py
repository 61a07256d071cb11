"""`mmray doctor`: what it says of memory, of the cluster and of a bundle."""

import socket

import pytest

from mmray.cli.doctor import _memory, diagnose
from mmray.errors import BundleError


@pytest.mark.parametrize(("available_kb", "level"), [(3_000_000, "note"), (8_000_000, "good")])
def test_little_memory_is_worth_a_note(tmp_path, available_kb, level):
    info = tmp_path / "meminfo"
    info.write_text(
        f"MemTotal:       16000000 kB\nMemAvailable:   {available_kb} kB\nHugePages_Total:       0\n"
    )
    [finding] = _memory(info)
    assert (finding.level, finding.subject) == (level, "memory")
    assert finding.message.startswith(f"{available_kb * 1024 / 1e9:.1f} of 16.4 GB are available")


def test_where_a_machine_does_not_tell_its_memory_nothing_is_said(tmp_path):
    assert list(_memory(tmp_path / "nowhere")) == []


def test_without_a_bundle_nothing_is_said_of_placement():
    assert "placement" not in {finding.subject for finding in diagnose()}


def test_a_directory_that_is_no_bundle_is_an_error(tmp_path):
    with pytest.raises(BundleError):
        diagnose(str(tmp_path))


def test_what_reads_the_formats_of_phones_is_named():
    said = [finding.message for finding in diagnose() if finding.subject == "media"]
    assert [message.rpartition(" reads ")[2] for message in said] == ["AAC, M4A and WebM", "HEIC"]


def test_a_cluster_that_does_not_answer_makes_the_machine_unfit(monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{probe.getsockname()[1]}")
    [finding] = [finding for finding in diagnose() if finding.subject == "cluster"]
    assert finding.level == "bad"
    assert "no Ray cluster answers there" in finding.message
