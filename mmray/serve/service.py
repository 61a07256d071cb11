"""What the routes do, free of HTTP: admit, preprocess, infer, and say what became of each record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeVar

import pyarrow as pa
from ray.serve.exceptions import BackPressureError

from mmray.bundle import Bundle
from mmray.predictor import open_preprocessor
from mmray.schema import Modality
from mmray.serve.answers import decision, left_out, prediction
from mmray.serve.bodies import Item, parse_batch, parse_one, records_of
from mmray.serve.metrics import Metrics
from mmray.serve.model import Answers, Infer
from mmray.serve.problems import Problem, overloaded
from mmray.serve.settings import ServeSettings

T = TypeVar("T")


@dataclass(frozen=True)
class Body:
    """A body that has arrived, and what its header says it is."""

    data: bytes
    kind: str
    boundary: bytes


class Service:
    """One replica's work on requests.

    Args:
        bundle: an opened bundle.
        settings: of the server.
        infer: TENSORS to answers, here or in another replica.
        variant: that `infer` runs.
        thread: where it parses and preprocesses; the event loop stays free.
        metrics: that it counts in.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: ServeSettings,
        infer: Infer,
        variant: str,
        thread: Executor,
        metrics: Metrics,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self._bundle = bundle
        self._infer = infer
        self._variant = variant
        self._thread = thread
        self._preprocess = open_preprocessor(bundle, limits=settings.limits)
        self._in_flight = 0

    def model(self) -> dict[str, Any]:
        """What `GET /v1/model` answers."""
        settings = self.settings
        return {
            "name": self._bundle.manifest.name,
            "labels": self._bundle.labels,
            "modalities": list(self._bundle.spec.modalities),
            "variant": self._variant,
            "digest": self._bundle.digest,
            "limits": {
                "body_bytes": settings.body_bytes,
                "body_timeout_s": settings.body_timeout_s,
                "batch_records": settings.max_records,
                **settings.limits.model_dump(exclude={"member_bytes"}),
            },
        }

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """A place in the queue, which is bounded.

        Raises:
            Problem: 503, at once.
        """
        if self._in_flight >= self.settings.requests_in_flight:
            raise overloaded()
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    async def predict(self, body: Body, *, explain: bool, top: int | None) -> dict[str, Any]:
        """The answer of one record.

        Raises:
            Problem: the body is malformed, or the record rejected.
        """
        start = perf_counter()
        tensors, without, preprocess_s = await self._in_thread(lambda: self._prepare(body, explain))
        answers = await self._ask(tensors)
        first, *others = answers.rows
        if first["error"]:
            raise self._rejected(first["error"])
        self.metrics.records.inc(tags={"outcome": "predicted"})
        answer = prediction(first, self._bundle.labels, top)
        answer["latency_ms"] = {
            "preprocess": 1e3 * preprocess_s,
            "model": 1e3 * answers.seconds,
            "total": 1e3 * (perf_counter() - start),
        }
        if explain:
            answer["without"] = {m: decision(row) for m, row in zip(without, others, strict=True)}
        return answer

    async def predict_batch(self, body: Body, *, top: int | None) -> list[dict[str, Any]]:
        """The answer of each record of a batch, or its problem, in order.

        Raises:
            Problem: the body is broken as a whole.
        """
        most = self.settings.max_records
        items = await self._in_thread(lambda: parse_batch(body.data, body.kind, body.boundary, most))
        good = [(i, item) for i, item in enumerate(items) if isinstance(item, Item)]
        answers = {i: {"error": item.as_json()} for i, item in enumerate(items) if isinstance(item, Problem)}
        # In pieces, so that single requests come in between.
        for first in range(0, len(good), self.settings.batch_rows):
            piece = good[first : first + self.settings.batch_rows]
            for (i, _), row in zip(
                piece, await self._predict_piece([item for _, item in piece]), strict=True
            ):
                answers[i] = self._line(row, top)
        ids = {i: {"id": item.id} for i, item in good if item.id is not None}
        return [{"index": i, **ids.get(i, {}), **answers[i]} for i in range(len(items))]

    async def _predict_piece(self, items: list[Item]) -> list[dict[str, Any]]:
        start = perf_counter()
        tensors, preprocess_s = await self._in_thread(lambda: self._tensors_of(items))
        answers = await self._ask(tensors)
        latency_ms = {
            "preprocess": 1e3 * preprocess_s,
            "model": 1e3 * answers.seconds,
            "total": 1e3 * (perf_counter() - start),
        }
        return [{**row, "latency_ms": latency_ms} for row in answers.rows]

    def _line(self, row: dict[str, Any], top: int | None) -> dict[str, Any]:
        if row["error"]:
            return {"error": self._rejected(row["error"]).as_json()}
        self.metrics.records.inc(tags={"outcome": "predicted"})
        return {**prediction(row, self._bundle.labels, top), "latency_ms": row["latency_ms"]}

    def _prepare(self, body: Body, explain: bool) -> tuple[pa.Table, dict[Modality, pa.Table], float]:
        """TENSORS of a body's record, and of the same record without each of its modalities below it."""
        tensors, seconds = self._tensors_of([parse_one(body.data, body.kind, body.boundary)])
        error = tensors["error"][0].as_py()
        if error:
            raise self._rejected(error)
        without = left_out(tensors) if explain else {}
        return pa.concat_tables([tensors, *without.values()]), without, seconds

    def _tensors_of(self, items: list[Item]) -> tuple[pa.Table, float]:
        start = perf_counter()
        tensors = self._preprocess(records_of(items))
        self._preprocess.seconds.clear()
        return tensors, perf_counter() - start

    async def _ask(self, tensors: pa.Table) -> Answers:
        try:
            return await self._infer(tensors)
        except BackPressureError:
            raise overloaded() from None

    def _rejected(self, error: dict[str, str]) -> Problem:
        self.metrics.records.inc(tags={"outcome": error["type"]})
        return Problem.of_reject(error)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
