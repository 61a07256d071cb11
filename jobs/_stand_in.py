"""Devices and CPUs that take their time: the real work, then a sleep. Workers find them beside the script."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa

from mmray.batching import Feeds
from mmray.engine.turns import Device, Turn
from mmray.pipeline.job import Job
from mmray.predictor import Predictor
from mmray.preprocess import Preprocessor


class StandIn(Device):
    """A device that takes its time."""

    def __init__(self, record_s: float) -> None:
        super().__init__()
        self._record_s = record_s

    def run(self, infer: Callable[[Feeds], Feeds], feeds: Feeds) -> Turn:
        def infer_slowly(feeds: Feeds) -> Feeds:
            until = time.perf_counter() + self._record_s * len(feeds["present"])
            outputs = infer(feeds)
            time.sleep(max(0.0, until - time.perf_counter()))
            return outputs

        return super().run(infer_slowly, feeds)


class StandInCpu:
    """Preprocessing on a CPU that takes its time."""

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
    """A job whose actors hold such devices, and whose tasks run on such CPUs."""

    record_s: float = 0.0
    slower: float = 1.0

    def open_preprocessor(self) -> Preprocessor:
        return cast(Preprocessor, StandInCpu(super().open_preprocessor(), self.slower))

    def open_predictor(self) -> Predictor:
        predict = super().open_predictor()
        predict.device = StandIn(self.record_s)
        return predict
