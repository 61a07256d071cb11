"""Simulated devices and CPUs with the speed of real ones: the real work, then a sleep.

The device is calibrated with measurements of one H200 with the stamps bundle (docs/gpu.md): its times by
variant and rows, its copies, and especially the 1.5 s of planning whenever a batch has another shape than the
previous one. Workers of a job import this module from the script's directory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa

from mmray.engine.turns import Device
from mmray.pipeline.job import Job
from mmray.preprocess import Preprocessor
from mmray.shapes import Shape

#: Rows of a batch, and rows a second where the inputs lie on the device already.
RATES = {
    "fp32": {8: 2_498, 32: 5_732, 64: 7_074, 256: 7_624, 512: 8_032},
    "fp16": {8: 2_373, 32: 6_298, 64: 8_580, 256: 9_209, 512: 9_777},
    "int8-static": {8: 1_017, 32: 3_603, 64: 4_694, 256: 5_382, 512: 5_662},
}
#: Rows a second of each modality alone (fp16, 256 rows): a picture, a text of 64 tokens, 2.6 patches.
ALONE = {"image": 11_932, "text": 55_132, "audio": 38_319}
TOKENS, PATCHES = 64, 2.6
PLANNING_S = 1.5  # of a batch whose shape differs from the previous one
BYTES_PER_S = 7.3e9  # of copies: 46.7 MB of 256 rows took 6.4 ms


def work_s(shape: Shape, variant: str) -> float:
    """Seconds of the device for a batch with the same shape as the previous one."""
    rates = RATES[variant]
    seconds = [rows / rate for rows, rate in rates.items()]
    largest = max(rates)
    whole = float(np.interp(shape.rows, list(rates), seconds)) * max(1.0, shape.rows / largest)
    costs = {modality: 1 / rate for modality, rate in ALONE.items()}
    used = (
        costs["image"] * shape.images
        + costs["text"] * shape.texts * shape.tokens / TOKENS
        + costs["audio"] * shape.patches / PATCHES
    )
    return whole * used / (shape.rows * sum(costs.values()))


class StandIn(Device):
    """A device with simulated times.

    Args:
        times_of: a variant, or the seconds that it takes for a row of a batch, without planning or copies.
        instant: whether it takes no time: then the job is limited only by its CPUs.
    """

    def __init__(self, times_of: str | float, *, instant: bool = False) -> None:
        super().__init__()
        self._times_of = times_of
        self._instant = instant

    def work(self, infer: Callable[[], None], shape: Hashable, *, changed: bool) -> None:
        """Run the batch, and take as long as the device would."""
        assert isinstance(shape, Shape)
        if isinstance(self._times_of, float):
            self._take(infer, self._times_of * shape.rows)
        else:
            self._take(infer, work_s(shape, self._times_of) + PLANNING_S * changed)

    def move(self, move: Callable[[], None], size: int) -> None:
        """Copy, and take as long as the bus would."""
        self._take(move, 0.0 if isinstance(self._times_of, float) else size / BYTES_PER_S)

    def _take(self, act: Callable[[], None], due_s: float) -> None:
        until = time.perf_counter() + due_s
        act()
        if not self._instant:
            time.sleep(max(0.0, until - time.perf_counter()))


class StandInCpu:
    """Preprocessing on a CPU with simulated times."""

    def __init__(self, preprocess: Preprocessor, slower: float) -> None:
        self._preprocess = preprocess
        self._slower = slower

    def __call__(self, *arguments: Any) -> pa.Table:  # noqa: ANN401  (the preprocessor's)
        start = time.thread_time()  # the work, not the wait for a core
        tensors = self._preprocess(*arguments)
        time.sleep((self._slower - 1) * (time.thread_time() - start))
        return tensors

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._preprocess, name)


@dataclass(frozen=True)
class StandInJob(Job):
    """A job whose actors have such devices, and whose tasks run on such CPUs."""

    times_of: str | float = "fp32"
    instant: bool = False
    slower: float = 1.0

    def open_preprocessor(self) -> Preprocessor:
        return cast(Preprocessor, StandInCpu(super().open_preprocessor(), self.slower))

    def open_device(self) -> Device:
        return StandIn(self.times_of, instant=self.instant)
