"""`mmray doctor`: what it says of memory, of the cluster and of a bundle."""

import socket

import pytest
from support.bundles import small_bundle

from mmray.cli.doctor import Finding, _memory, diagnose, print_findings
from mmray.engine import available_providers
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


def test_with_a_bundle_its_nodes_are_placed_on_every_provider_that_computes_on_the_cpu():
    said = [
        finding.message for finding in diagnose(str(small_bundle().path)) if finding.subject == "placement"
    ]
    assert all("nodes on" in message for message in said)
    assert any("nodes on openvino" in message for message in said) == available_providers()["openvino"]


def test_the_extra_that_a_remedy_names_is_shown(capsys):
    """Square brackets are not markup."""
    print_findings([Finding("note", "media", "run pip install 'mmray[media]'")], as_json=False)
    assert "pip install 'mmray[media]'" in capsys.readouterr().out


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
