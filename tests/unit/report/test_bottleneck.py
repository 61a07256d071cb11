"""What bounds a run, and what it would gain."""

import pytest

from mmray.report.bottleneck import bottleneck, stages

FUSED = {"stage_seconds": {"read": 1.0, "align": 0.0, "audio": 4.0, "model": 5.0}}
SPLIT = {
    "stage_seconds": {"read": 1.0, "image": 2.0, "audio": 3.0, "model": 5.0, "write": 1.0},
    "cpu_rows_per_s": 100.0,
    "device_rows_per_s": 150.0,
}


def gains(this_run):
    return {stage.name: stage.gain for stage in stages(this_run)}


def test_a_worker_that_does_all_in_turn_gains_by_the_share_of_a_stage():
    assert gains(FUSED) == pytest.approx({"read": 10 / 9, "audio": 10 / 6, "model": 2.0})
    said = bottleneck(FUSED)
    assert said.startswith("Bound by the model (50% of the work)")
    assert "without decoding of sound at most 1.7 times" in said


def test_with_devices_the_other_side_bounds_the_gain():
    """Without sound CPUs would prepare 200 a second, and devices take 150."""
    assert gains(SPLIT) == pytest.approx(
        {"read": 1.2, "image": 1.5, "audio": 1.5, "model": 1.0, "write": 1.0}
    )
    devices = SPLIT | {"cpu_rows_per_s": 300.0}
    assert gains(devices) == pytest.approx(dict.fromkeys(SPLIT["stage_seconds"], 1.0) | {"model": 2.0})
    assert bottleneck(devices).startswith("Bound by the model")


def test_one_stage_alone_and_none_at_all():
    assert gains({"stage_seconds": {"read": 2.0}}) == {"read": 1.0}
    assert bottleneck({}) == ""
    assert stages({"stage_seconds": {"read": 0.0}}) == []
