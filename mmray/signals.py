"""Ctrl-C and SIGTERM as errors of ours, which unwind what is open and end in their documented exit codes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mmray.errors import Interrupted, RunError

_ENDING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def raised() -> Iterator[None]:
    """While the body runs, the first such signal raises; a second one ends the process at once.

    Raises:
        Interrupted: SIGINT.
        RunError: SIGTERM.
    """
    owner = os.getpid()

    def end(number: int, _: FrameType | None) -> None:
        if os.getpid() != owner:  # a child that was forked: it has nothing to unwind
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        for one in _ENDING:
            signal.signal(one, lambda number, _: os._exit(128 + number))
        word, kind = ("interrupted", Interrupted) if number == signal.SIGINT else ("terminated", RunError)
        raise kind(f"{word}; what is written stays, and the same command continues from there")

    earlier = {number: signal.signal(number, end) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
