"""Canary: a share of the requests is answered by a second bundle as well, and both decisions are compared.

No client waits for it, and its failures do not reach clients. The number of open requests is bounded: while
the second bundle is behind, records are skipped and counted.
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

#: The second bundle's labels of a work's records, in order; None: it cannot use the record.
AskCanary = Callable[[Work], Awaitable[Sequence[str | None]]]

_AT_ONCE = 4  # works sent to the canary and not answered yet; their bodies stay in memory
_log = logging.getLogger("ray.serve")


@dataclass
class Shadowing:
    """Of one replica that answers requests.

    Args:
        ask: the second bundle.
        share: of the works sent to it.
        metrics: for counts by set of modalities.
    """

    ask: AskCanary
    share: float
    metrics: Metrics

    def __post_init__(self) -> None:
        self._under_way: set[asyncio.Task[None]] = set()
        self._fails = False

    def offer(self, work: Work, rows: Sequence[dict[str, Any]]) -> None:
        """Compare a work in the background, if it is selected.

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
        # From its machine, engine or replica: the request is answered; the failure is counted.
        except (EngineError, MemoryError, OSError, RayError, RayServeException) as e:
            if not self._fails:  # once until it works again, not for each request
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
