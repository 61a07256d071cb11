"""The highest rate that a server holds, found by trying."""

from __future__ import annotations

import math
from collections.abc import Callable

_FACTOR = 1.5  # between two rates of the ladder
_HALVINGS = 2  # of what lies between the last that held and the first that did not: 1.5 becomes 1.11
_DOWN, _UP = 3, 16  # rates at most, below and above the first


def highest_rate(holds: Callable[[float], bool], first: float) -> float | None:
    """The highest rate that was seen to hold twice; None if none did.

    Rates go up (or down) by a factor until one fails (or holds); what lies between is halved. The best of
    several tries may have had luck. So that rate is tried once more, and where it fails then, the next lower
    one that held, at last a few that are lower still.

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
