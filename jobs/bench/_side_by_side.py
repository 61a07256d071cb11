"""Two contenders at once, each on its own core: other load and clock changes of the machine affect both.

Sequential runs differ by a tenth on a shared machine; such a pair by a few hundredths.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from pathlib import Path

from _contest import ContestError, Input, Ran, run_contender, slope_ms


def paired_ratios(
    names: tuple[str, str], inputs: tuple[Input, Input], bundle: Path, place: Path
) -> Iterator[float]:
    """Throughput of the first contender over the second's, twice, with cores swapped.

    A contender's daemons run on its core, too.

    Args:
        names: two contenders.
        inputs: N and 2N records.
        bundle: directory of the bundle.
        place: directory to write in.

    Raises:
        ContestError: there is only one core, or a contender failed.
    """
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise ContestError("two contenders at once need two cores; run them one after the other")
    for turn in permutations(cores):
        short, long = (
            _run_both(names, turn, given, bundle, place / f"{size}-{turn[0]}")
            for given, size in zip(inputs, ("1N", "2N"), strict=True)
        )
        first, second = (slope_ms(a, b) for a, b in zip(short, long, strict=True))
        yield second / first


def _run_both(
    names: tuple[str, str], cores: tuple[int, ...], given: Input, bundle: Path, place: Path
) -> list[Ran]:
    def run(name: str, core: int) -> Ran:
        os.sched_setaffinity(0, {core})  # of this thread, and of what it starts
        return run_contender(name, given, place / name, bundle)

    place.mkdir(parents=True)
    with ThreadPoolExecutor(len(names)) as pool:
        return list(pool.map(run, names, cores))
