"""A share of the requests is answered by a second bundle as well, and both decisions are compared.

Nobody waits for it, and nothing that fails there reaches a client. What it is asked at once is bounded: while
it is behind, records are skipped, and counted.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from mmray.errors import EngineError, one_line
from mmray.serve.metrics import Metrics
from mmray.serve.work import Work

#: Labels of a work's records by the second bundle, in order; None: it cannot use the record.
AskCanary = Callable[[Work], Awaitable[Sequence[str | None]]]

_AT_ONCE = 4  # works that a replica has sent there and knows nothing of yet; their bodies stay in memory
_log = logging.getLogger("ray.serve")


@dataclass
class Shadowing:
    """Of one replica that answers requests.

    Args:
        ask: the second bundle.
        share: of the works that it is sent.
        metrics: that it counts in, by set of modalities.
    """

    ask: AskCanary
    share: float
    metrics: Metrics

    def __post_init__(self) -> None:
        self._under_way: set[asyncio.Task[None]] = set()
        self._fails = False

    def offer(self, work: Work, rows: Sequence[dict[str, Any]]) -> None:
        """Compare, perhaps, in the background.

        Args:
            work: that was answered.
            rows: its OUTCOMES; those without a label, rejected or abstained, are not compared.
        """
        if random.random() >= self.share:
            return
        chosen = [i for i, row in enumerate(rows) if row["label"] is not None]
        if not chosen:
            return
        asked = replace(work, items=[work.items[i] for i in chosen], explain=False)
        answered = [rows[i] for i in chosen]
        if len(self._under_way) >= _AT_ONCE:
            self._count(answered, ["skipped"] * len(answered))
            return
        task = asyncio.get_running_loop().create_task(self._compare(asked, answered))
        self._under_way.add(task)  # the loop itself keeps no reference
        task.add_done_callback(self._under_way.discard)

    async def _compare(self, work: Work, rows: Sequence[dict[str, Any]]) -> None:
        try:
            labels = await self.ask(work)
        # Of its machine, its engine, its replica: the request is answered, and the count tells.
        except (EngineError, MemoryError, OSError, RayError, RayServeException) as e:
            if not self._fails:  # once until it works again, not once a request
                _log.warning("the canary does not answer: %s", one_line(e))
            self._fails = True
            self._count(rows, ["failed"] * len(rows))
            return
        self._fails = False
        own = [row["label"] for row in rows]
        self._count(rows, [_verdict(*pair) for pair in zip(own, labels, strict=True)])

    def _count(self, rows: Sequence[dict[str, Any]], verdicts: Sequence[str]) -> None:
        for row, verdict in zip(rows, verdicts, strict=True):
            self.metrics.canary.inc(tags={"answer": verdict, "modalities": "+".join(row["modalities"])})


def _verdict(own: str, other: str | None) -> str:
    if other is None:
        return "rejected"
    return "same" if own == other else "other"
