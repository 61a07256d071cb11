"""Drift: whether the requests of a replica are still like the records that its model was chosen with."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

from mmray.drift import Counts, VariantReference, Watch
from mmray.serve.metrics import Metrics

_log = logging.getLogger("ray.serve")
_DAY_S = 86_400.0


class DailyWatch:
    """A watch that restarts each day: so a replica raises a false alarm on at most one day in a hundred.

    Args:
        reference: of the variant that answers.
        metrics: to export findings.
        clock: seconds.
    """

    def __init__(
        self, reference: VariantReference, metrics: Metrics, clock: Callable[[], float] = monotonic
    ) -> None:
        self._reference, self._metrics, self._clock = reference, metrics, clock
        self._watch, self._began = Watch(reference), clock()
        self._tests = 0

    def add(self, counts: Counts) -> None:
        """Add records answered since the last call; the first alarm of the day is logged."""
        if self._clock() - self._began >= _DAY_S:
            self._watch, self._began = Watch(self._reference), self._clock()
        before = self._watch.alarm
        self._watch.add(counts)
        if self._watch.alarm and not before:
            _log.warning("%s", self._watch.alarm)
        if self._watch.tests != self._tests:
            self._tests = self._watch.tests
            self._metrics.show_drift(self._watch.read())
