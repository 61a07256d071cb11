"""The last line and the exit code of a command that fails."""

from __future__ import annotations

import os
from traceback import format_exc

from mmray.errors import MmrayError, SignalError, one_line

_OUR_FAULT = 70  # EX_SOFTWARE of sysexits.h


def exit_code(failure: BaseException) -> int:
    """The exit code of a failure; the README lists them."""
    if isinstance(failure, MmrayError | SignalError):
        return failure.exit_code
    return MmrayError.exit_code if isinstance(failure, OSError | MemoryError) else _OUR_FAULT


def last_words(failure: BaseException) -> tuple[str, str]:
    """A failure in one line, with a traceback before it if it is a bug."""
    if isinstance(failure, MmrayError | SignalError):
        return str(failure), ""
    if isinstance(failure, OSError | MemoryError):
        place = getattr(failure, "filename", None)
        reason = getattr(failure, "strerror", None) or str(failure) or "out of memory"
        where = f"{os.fsdecode(place)}: " if isinstance(place, str | bytes) else ""
        return f"{where}{reason}; fix the cause, and run the same command again", ""
    return f"a bug in mmray: {one_line(failure)}; please report the lines above", format_exc()
