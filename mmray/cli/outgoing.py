"""Outputs of a command: files named by options, and standard output."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

from mmray.errors import UsageError


def check_file(option: str, file: Path) -> Path:
    """A file that a command will write; makes its directory first, so that errors come before the work.

    Args:
        option: that names it, as "--html".
        file: may exist; then it will be replaced.

    Raises:
        UsageError: it cannot be written there.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UsageError(
            f"{option} {file}: cannot make the directory {file.parent} ({e.strerror}); choose another place"
        ) from e
    if file.is_dir():
        raise UsageError(f"{option} {file}: is a directory; name a file in it")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise UsageError(f"{option} {file}: cannot be written; choose another place")
    return file


def tolerate_closed_pipe() -> None:
    """Let `mmray audit OUT | head -1` end as without `head`: output without a reader is dropped.

    Otherwise Click ends the command with exit code 1, which for an audit means failure, and would interrupt a
    run.
    """
    if sys.stdout is not sys.__stdout__ or sys.stdout is None:  # replaced by someone else
        return
    sys.stdout.flush()
    raw = _Dropping(sys.stdout.fileno(), "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=sys.stdout.encoding,
        errors=sys.stdout.errors,
        line_buffering=raw.isatty(),
    )


class _Dropping(io.FileIO):
    """A file descriptor that is redirected to /dev/null when its pipe has no reader."""

    def write(self, data: object, /) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]  # any buffer, as the base class takes
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return super().write(data)  # type: ignore[arg-type]
