"""What the routes do, without HTTP: answer records, and report problems."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter, time_ns
from typing import Any, TypeVar

from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException

from mmray.bundle import Bundle
from mmray.errors import EngineError, one_line
from mmray.serve import traces
from mmray.serve.admission import Admission
from mmray.serve.answers import explained, latency_ms, prediction, sample
from mmray.serve.bodies import Item, parse_batch, parse_one
from mmray.serve.compute import Compute
from mmray.serve.metrics import Metrics
from mmray.serve.model import Answer
from mmray.serve.problems import Problem, overloaded, unavailable
from mmray.serve.settings import ServeSettings
from mmray.serve.shadowing import Shadowing
from mmray.serve.work import Answered, Work

_PARSED_AT_ONCE = 256 << 10  # bytes: a millisecond of base64 and JSON

T = TypeVar("T")
_log = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Body:
    """A body that has arrived, and its type from the header."""

    data: bytes
    kind: str
    boundary: bytes


class Service:
    """One replica's work on requests.

    Args:
        bundle: an opened bundle.
        settings: of the server.
        answer: answers records, here or in another replica.
        ready: raises an EngineError if no answer is expected soon.
        variant: that `answer` runs.
        compute: thread for parsing large bodies; the event loop stays free.
        metrics: for its counts.
        shadowing: compares answers with those of a second bundle; None: no comparison.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: ServeSettings,
        answer: Answer,
        ready: Callable[[], Awaitable[None]],
        variant: str,
        compute: Compute,
        metrics: Metrics,
        shadowing: Shadowing | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.admission = Admission(
            places=settings.requests_in_flight,
            bodies=settings.bodies_arriving,
            most_bytes=settings.bytes_in_flight,
        )
        self._bundle = bundle
        self._answer = answer
        self._ready = ready
        self._variant = variant
        self._compute = compute
        self._shadowing = shadowing

    def model(self) -> dict[str, Any]:
        """The answer of `GET /v1/model`."""
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
            "samples": settings.samples,
        }

    def samples(self) -> dict[str, Any]:
        """What `GET /v1/samples` answers: records to try, each once.

        Raises:
            BundleError: the file that holds them is unreadable.
        """
        records = self._bundle.golden_records()
        found = {record["key"]: sample(record) for record in records.to_pylist()} if records else {}
        return {"samples": [one for one in found.values() if one["record"]]}

    async def ready(self) -> None:
        """Whether the model is likely to answer the next request.

        Raises:
            Problem: 503, it is not.
        """
        with _faults_of_ours():
            await self._ready()

    async def predict(self, body: Body, *, explain: bool, top: int | None) -> dict[str, Any]:
        """The answer of one record.

        Raises:
            Problem: the body is malformed, or the record rejected.
        """
        start = perf_counter()
        item = await self._parsed(body, lambda: parse_one(body.data, body.kind, body.boundary))
        answered = await self._ask(Work([item], explain))
        [row] = answered.rows
        if row["error"]:
            raise self._rejected(row["error"])
        answer = self._predicted(row, answered, start, top)
        if explain:
            answer["without"] = explained(answered.without)
        return answer

    async def predict_batch(self, body: Body, *, top: int | None) -> list[dict[str, Any]]:
        """The answer of each record of a batch, or its problem, in order.

        Raises:
            Problem: the whole body is malformed.
        """
        most = self.settings.max_records
        items = await self._parsed(body, lambda: parse_batch(body.data, body.kind, body.boundary, most))
        good = [(i, item) for i, item in enumerate(items) if isinstance(item, Item)]
        answers = {i: {"error": item.as_json()} for i, item in enumerate(items) if isinstance(item, Problem)}
        # In pieces, so that single requests can run in between.
        for first in range(0, len(good), self.settings.batch_rows):
            piece = good[first : first + self.settings.batch_rows]
            start = perf_counter()
            answered = await self._ask(Work([item for _, item in piece]))
            for (i, _), row in zip(piece, answered.rows, strict=True):
                if row["error"]:
                    answers[i] = {"error": self._rejected(row["error"]).as_json()}
                else:
                    answers[i] = self._predicted(row, answered, start, top)
        ids = {i: {"id": item.id} for i, item in good if item.id is not None}
        return [{"index": i, **ids.get(i, {}), **answers[i]} for i in range(len(items))]

    def _predicted(
        self, row: dict[str, Any], answered: Answered, start: float, top: int | None
    ) -> dict[str, Any]:
        self.metrics.records.inc(tags={"outcome": "predicted"})
        took = latency_ms(
            preprocess_s=answered.preprocess_s,
            model_s=answered.model_s,
            total_s=perf_counter() - start,
        )
        return {**prediction(row, self._bundle.labels, top), "latency_ms": took}

    async def _ask(self, work: Work) -> Answered:
        start_ns = time_ns()
        with _faults_of_ours():
            found = await self._answer(work)
        traces.answered(
            start_ns, preprocess_s=found.preprocess_s, model_s=found.model_s, records=len(work.items)
        )
        if self._shadowing:
            self._shadowing.offer(work, found.rows)
        return found

    async def _parsed(self, body: Body, parse: Callable[[], T]) -> T:
        """Parse a small body at once, a large one in the thread: it would block the event loop."""
        with traces.span("parse"):
            if len(body.data) <= _PARSED_AT_ONCE:
                return parse()
            with _faults_of_ours():
                return await self._compute(parse)

    def _rejected(self, error: dict[str, str]) -> Problem:
        self.metrics.records.inc(tags={"outcome": error["type"]})
        return Problem.of_reject(error)


@contextmanager
def _faults_of_ours() -> Iterator[None]:
    """A failure of the model or this machine is not the client's fault: it may retry."""
    try:
        yield
    except BackPressureError:
        raise overloaded() from None
    # MemoryError and OSError, including time-outs, come from the machine; Ray's errors from a dead replica.
    except (EngineError, MemoryError, OSError, RayError, RayServeException) as e:
        _log.error("a request could not be answered: %s", one_line(e))
        raise unavailable() from e
