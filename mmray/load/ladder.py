"""Searches the highest rate that a server holds."""

from __future__ import annotations

import math
from collections.abc import Callable

_FACTOR = 1.5  # between two rates of the ladder
_HALVINGS = 2  # bisections between the last rate that held and the first that did not: 1.5 becomes 1.11
_DOWN, _UP = 3, 16  # rates at most, below and above the first


def highest_rate(holds: Callable[[float], bool], first: float) -> float | None:
    """The highest rate that held twice; None if none did.

    Rates go up (or down) by a factor until one fails (or holds); then the interval is bisected. The best of
    several tries may be luck. So that rate is tried again; if it fails, the next lower one that held, and
    finally a few lower ones.

    Args:
        holds: tries a rate.
        first: rate to begin with.
    """
    held: list[float] = []
    failed = math.inf
    rate, tries = first, 0
    while tries < (_UP if held else _DOWN):
        tries += 1
        if holds(rate):
            held.append(rate)
        else:
            failed = rate
        if held and failed < math.inf:
            break
        rate = rate * _FACTOR if held else rate / _FACTOR
    for _ in range(_HALVINGS if held and failed < math.inf else 0):
        rate = math.sqrt(max(held) * failed)
        if holds(rate):
            held.append(rate)
        else:
            failed = rate
    for rate in sorted(held, reverse=True):
        if holds(rate):
            return rate
    for step in range(1, _DOWN) if held else ():
        rate = min(held) / _FACTOR**step
        if holds(rate) and holds(rate):
            return rate
    return None
