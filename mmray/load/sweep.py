"""Tries settings of a server one after the other, each at rising rates, against a latency target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from mmray.errors import InputError
from mmray.load.bodies import CONTENT_TYPE
from mmray.load.ladder import highest_rate
from mmray.load.latency import Step
from mmray.load.open_loop import Target, load, one_by_one
from mmray.load.served import Setting, served

_ROUTE = "/v1/predict"
_FIRST = 0.5  # of the rate of sequential answers: the first rate


@dataclass(frozen=True)
class Asked:
    """Target and options of a sweep.

    Args:
        bundle: directory.
        target_ms: that the 99th percentile must not exceed.
        requests: counted ones of a step.
        warm_s: seconds of a step that do not count.
        options: of `mmray serve`, for all settings.
    """

    bundle: str
    target_ms: float
    requests: int = 1000
    warm_s: float = 2.0
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """Results of one setting."""

    setting: Setting
    idle_ms: float  # median latency of single requests
    refused: int  # records that the server rejects, so that they were not sent
    steps: list[Step]
    held: Step | None  # the highest rate that held twice; results of the second time

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        return {
            "replicas": self.setting.replicas,
            "batch_rows": self.setting.batch_rows,
            "wait_ms": self.setting.wait_ms,
            "idle_ms": round(self.idle_ms, 3),
            "refused_records": self.refused,
            "held": self.held and self.held.to_json(),
            "steps": [step.to_json() for step in self.steps],
        }


def best_of(found: Sequence[Found]) -> Found | None:
    """The setting with the highest rate that held; the smaller one if equal."""
    holding = [(one.held.asked_per_s, -one.setting.replicas, one) for one in found if one.held]
    return max(holding, key=lambda each: each[:2])[2] if holding else None


def measure(
    setting: Setting, asked: Asked, bodies: Sequence[bytes], watch: Callable[[Step], None] = lambda _: None
) -> Found:
    """Start a server, load it at rising rates, end it.

    Args:
        setting: of the server.
        asked: target and options.
        bodies: of requests, at least one.
        watch: gets each step.

    Raises:
        EngineError: the server does not start.
        InputError: it rejects every record.
    """
    with served(asked.bundle, [*setting.options, *asked.options]) as url:
        target = Target(url + _ROUTE, bodies, CONTENT_TYPE)
        one_by_one(target)  # the first calls take longer
        alone = one_by_one(target)
        good = [body for body, sent in zip(bodies, alone, strict=True) if sent.status == 200]
        if not good:
            raise InputError(f"{asked.bundle} rejects all {len(bodies)} records; `mmray predict` shows why")
        idle_ms = 1e3 * median(sent.latency_s for sent in alone if sent.status == 200)
        first = _FIRST * setting.replicas * 1e3 / idle_ms
        if idle_ms > asked.target_ms:  # it will not become faster
            return Found(setting, idle_ms, len(bodies) - len(good), [], None)
        steps, held = climb(replace(target, bodies=good), asked, first, watch)
    return Found(setting, idle_ms, len(bodies) - len(good), steps, held)


def climb(
    target: Target, asked: Asked, first_per_s: float, watch: Callable[[Step], None]
) -> tuple[list[Step], Step | None]:
    """All steps, and the one with the highest rate that held twice."""
    steps: list[Step] = []

    def holds(rate_per_s: float) -> bool:
        # The same arrivals for all rates and settings; others for a rate that is tried again.
        seed = sum(step.asked_per_s == rate_per_s for step in steps)
        step = load(target, rate_per_s, requests=asked.requests, warm_s=asked.warm_s, seed=seed)
        steps.append(step)
        watch(step)
        return step.holds(asked.target_ms)

    held = highest_rate(holds, first_per_s)
    return steps, steps[-1] if held else None  # the rate that holds twice is tried last
