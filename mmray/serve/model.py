"""The model of a replica behind a dynamic batch: whoever waits while one inference runs shares the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from ray import serve

from mmray.bundle import Bundle
from mmray.predictor import Predictor
from mmray.serve.metrics import Metrics
from mmray.serve.settings import ServeSettings

# A token costs MiniLM what 1,300 pixels cost EfficientNet-Lite0 and 480 log-mel values cost YAMNet, whose
# patches overlap by half (multiply-adds: 10.6 M a token, 0.4 G an image, 69 M a patch). Roughly is enough.
_PIXELS_A_TOKEN, _MEL_VALUES_A_TOKEN = 1300, 480
# In tokens: a picture of 224 x 224, a caption, four seconds of sound.
_USUAL_RECORD = 100


@dataclass(frozen=True)
class Answers:
    """What became of the rows of one table of TENSORS."""

    rows: list[dict[str, Any]]  # of OUTCOMES
    seconds: float  # of the inference that they shared with others


Infer = Callable[[pa.Table], Awaitable[Answers]]


def cost(tensors: pa.Table) -> int:
    """Work of an inference, in tokens of text."""
    pixels = _bytes(tensors["pixels"]) // 3
    tokens = pc.sum(pc.list_value_length(tensors["input_ids"])).as_py() or 0
    mel_values = _bytes(tensors["log_mel"]) // 2
    return int(tokens + pixels // _PIXELS_A_TOKEN + mel_values // _MEL_VALUES_A_TOKEN)


def _bytes(column: pa.ChunkedArray) -> int:
    return pc.sum(pc.binary_length(column)).as_py() or 0


class BatchedModel:
    """A loaded model. Its batches are bounded by cost, so that long sounds do not make short texts wait.

    Args:
        bundle: an opened bundle.
        settings: of the server.
        thread: where it computes, one inference at a time; the event loop stays free.
        metrics: that it counts in.
    """

    def __init__(self, bundle: Bundle, settings: ServeSettings, thread: Executor, metrics: Metrics) -> None:
        # Loading it runs the golden inputs: whoever is ready is warm, and right.
        self._predict = Predictor(
            bundle, variant=settings.variant, threads=1, batch_rows=settings.batch_rows, shared=True
        )
        self._thread = thread
        self._metrics = metrics
        most = settings.batch_rows * _USUAL_RECORD

        def size(tables: Sequence[pa.Table]) -> int:
            return min(most, sum(map(cost, tables)))  # what alone is too large is a batch of its own

        self.infer: Infer = serve.batch(
            max_batch_size=most, batch_wait_timeout_s=settings.batch_wait_s, batch_size_fn=size
        )(self._infer)

    @property
    def variant(self) -> str:
        return self._predict.variant

    async def _infer(self, tables: list[pa.Table]) -> list[Answers]:
        loop = asyncio.get_running_loop()
        rows, seconds = await loop.run_in_executor(self._thread, self._compute, pa.concat_tables(tables))
        self._metrics.batch_rows.observe(len(rows))
        answers, start = [], 0
        for table in tables:
            answers.append(Answers(rows[start : start + table.num_rows], seconds))
            start += table.num_rows
        return answers

    def _compute(self, tensors: pa.Table) -> tuple[list[dict[str, Any]], float]:
        start = perf_counter()
        rows: list[dict[str, Any]] = self._predict(tensors).to_pylist()
        return rows, perf_counter() - start
