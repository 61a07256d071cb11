"""Ctrl-C and SIGTERM as exceptions of ours, which unwind the stack and end in their documented exit codes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mmray.errors import Interrupted, SignalError, Terminated

_ENDING = (signal.SIGINT, signal.SIGTERM)
_AGAIN_S = 1.0


@contextmanager
def raised() -> Iterator[None]:
    """While the body runs, the first such signal raises; a second one ends the process at once.

    Python drops exceptions raised in a `__del__` or a callback of C code, and some libraries catch all. So it
    is raised again each second, except while its own `finally` and `with` blocks run.

    Raises:
        Interrupted: SIGINT.
        Terminated: SIGTERM.
    """
    owner = os.getpid()
    failure: SignalError | None = None
    timer = 0.0, 0.0

    def end(number: int, _: FrameType | None) -> None:
        nonlocal failure, timer
        if os.getpid() != owner:  # a child that was forked: it has nothing to unwind
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        for one in _ENDING:
            signal.signal(one, lambda number, _: os._exit(128 + number))
        word, kind = ("interrupted", Interrupted) if number == signal.SIGINT else ("terminated", Terminated)
        failure = kind(f"{word}; written parts are kept, and the same command resumes")
        earlier[signal.SIGALRM] = signal.signal(signal.SIGALRM, insist)
        timer = signal.setitimer(signal.ITIMER_REAL, _AGAIN_S, _AGAIN_S)
        raise failure

    def insist(*_: object) -> None:
        if failure and not _handles(failure):
            raise failure

    earlier: dict[signal.Signals, Any] = {number: signal.signal(number, end) for number in _ENDING}
    try:
        yield
    finally:
        if failure:
            signal.setitimer(signal.ITIMER_REAL, *timer)
        for number, handler in earlier.items():
            signal.signal(number, handler)
    if failure:  # dropped when the body ended
        raise failure


def _handles(failure: BaseException) -> bool:
    """Whether the current code runs because of it."""
    handled = sys.exception()
    while handled is not None and handled is not failure:
        handled = handled.__context__
    return handled is failure
