"""What a command that ends early says, and by which exit code it ends."""

from __future__ import annotations

import os
from traceback import format_exc

from mmray.errors import MmrayError, SignalError, one_line

_OUR_FAULT = 70  # EX_SOFTWARE of sysexits.h


def exit_code(failure: BaseException) -> int:
    """As in the README."""
    if isinstance(failure, MmrayError | SignalError):
        return failure.exit_code
    return MmrayError.exit_code if isinstance(failure, OSError | MemoryError) else _OUR_FAULT


def last_words(failure: BaseException) -> tuple[str, str]:
    """What to say of a failure in a line, and a trace before it where that is the only trace of a bug."""
    if isinstance(failure, MmrayError | SignalError):
        return str(failure), ""
    if isinstance(failure, OSError | MemoryError):
        place = getattr(failure, "filename", None)
        reason = getattr(failure, "strerror", None) or str(failure) or "out of memory"
        where = f"{os.fsdecode(place)}: " if isinstance(place, str | bytes) else ""
        return f"{where}{reason}; fix that, and run the same command again", ""
    return f"a fault of mmray itself: {one_line(failure)}; please report the lines above", format_exc()
