"""What bounds a run on devices, and how many CPUs would balance them. Arithmetic only."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

_BALANCED = 1.05  # smaller gains are not reported
# Spare CPU capacity: if both sides are equally fast, each waits for the other, because blocks differ in size.
# With 2 % to spare a device was 16 % slower than it could be (docs/log.md).
_SLACK = 1.1


@dataclass(frozen=True)
class Advice:
    """Rates of CPUs and devices, and how much faster a run would be with more CPUs.

    On two cores, which Ray and the actor needed, too, the measured gain was smaller: docs/speed.md.
    """

    cpu_rows_per_s: float  # of all CPUs that prepare
    device_rows_per_s: float  # of all devices
    cpus_per_device: int  # that feed one, with some to spare
    cpus: int  # more that are needed; 0: the devices bound the run

    @property
    def speedup(self) -> float:
        """Maximum gain of a run with `cpus` more."""
        return self.device_rows_per_s / self.cpu_rows_per_s if self.cpus else 1.0

    def __str__(self) -> str:
        rates = f"CPUs prepare {self.cpu_rows_per_s:,.0f} rows/s, devices take {self.device_rows_per_s:,.0f}"
        if not self.cpus:
            return f"device-bound: {rates}"
        gain = f"×{self.speedup:.1f}"  # noqa: RUF001  (a multiplication sign is meant)
        more = f"+{self.cpus} CPU{'s' * (self.cpus > 1)} would give at most {gain}"
        return f"decode-bound: {rates}; {more} ({self.cpus_per_device} CPUs per device balance)"


def advise(task_s: float, device_s: float, cpus: int, devices: int) -> Advice | None:
    """The fewest CPUs that feed the devices, with some to spare; None where nothing was measured.

    Tasks can prepare ``cpus / task_s`` records a second and devices answer ``devices / device_s``; the run
    goes at the smaller rate.

    Args:
        task_s: seconds that a task takes to read and preprocess a record, on a CPU of its own.
        device_s: seconds that a device works for a record.
        cpus: that tasks run on.
        devices: how many there are.
    """
    if not task_s or not device_s:
        return None
    prepared, taken = cpus / task_s, devices / device_s
    enough = ceil(_SLACK * taken * task_s)
    more = 0 if taken < _BALANCED * prepared else enough - cpus
    return Advice(prepared, taken, ceil(enough / devices), more)
