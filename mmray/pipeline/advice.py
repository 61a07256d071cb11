"""What bounds a run of the split topology, and what more CPUs would give. Arithmetic alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

_BALANCED = 1.05  # a smaller gain is no advice
# CPUs over what the devices take: where both are equally fast each waits for the other, for blocks are not
# equal. With 2 % to spare a device was 16 % slower than it could be (docs/log.md).
_SLACK = 1.1


@dataclass(frozen=True)
class Advice:
    """How much faster a run would be with more CPUs for its tasks, if they were its tasks' alone.

    Measured on two cores that Ray and the actor needed, too, the gain was smaller: docs/speed.md.
    """

    cpus: int  # more; 0: the device bounds the run
    speedup: float

    def __str__(self) -> str:
        if not self.cpus:
            return "device-bound"
        gain = f"×{self.speedup:.1f}"  # noqa: RUF001  (a multiplication sign is meant)
        return f"decode-bound; +{self.cpus} CPU{'s' * (self.cpus > 1)} would give at most {gain}"


def advise(task_s: float, device_s: float, cpus: int, actors: int) -> Advice | None:
    """The fewest CPUs that feed the devices, with some to spare; None where nothing was measured.

    Tasks can prepare ``cpus / task_s`` records a second and devices answer ``actors / device_s``; the run
    goes at the smaller rate.

    Args:
        task_s: seconds that a task takes to read and preprocess a record, on a CPU of its own.
        device_s: seconds that a device takes for a record.
        cpus: that tasks run on.
        actors: that hold a device each.
    """
    if not task_s or not device_s:
        return None
    tasks, devices = cpus / task_s, actors / device_s
    if devices < _BALANCED * tasks:
        return Advice(0, 1.0)
    more = ceil(_SLACK * devices * task_s) - cpus
    return Advice(more, devices / tasks)
