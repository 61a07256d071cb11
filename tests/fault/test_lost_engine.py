"""A device that is lost in mid-run costs no record: the run ends and names it, and the next one goes on."""

import pytest

from mmray.pipeline.audit import audit
from mmray.pipeline.rundir import RunDirectory


@pytest.mark.parametrize(
    ("topology", "how", "said"),
    [
        ("fused", "lost", "CUDA failure 700"),
        pytest.param("fused", "nan", "not finite", marks=pytest.mark.long),
        pytest.param("split", "lost", "CUDA failure 700", marks=pytest.mark.long),
        pytest.param("split", "nan", "not finite", marks=pytest.mark.long),
    ],
)
def test_a_lost_device_ends_the_run_and_costs_no_record(
    command, undisturbed, break_devices, topology, how, said
):
    process = command.start(f"topology={topology}")
    command.wait_for_parts(process, 2)
    flag = break_devices(how)
    told = " ".join("".join(process.communicate(timeout=120)).split())
    assert process.returncode == 3, told
    assert "golden inputs fail" in told
    assert "on cpu of" in told
    assert said in told
    flag.unlink()
    command.finish(command.start(f"topology={topology}"))
    verdict = audit(RunDirectory.at(str(command.output)))
    assert (verdict.ok, verdict.rejected) == (True, 0)
    if topology == "fused":
        assert command.predictions().equals(undisturbed)
