"""`--log-format json`: a command's messages as one JSON object a line on standard error."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_NAME = "mmray"  # logger of the commands' messages; `mmray.pipeline.rundir` logs a run's events below it
_state = {"on": False}


class JsonLines(logging.Formatter):
    """Time (ISO 8601, UTC), level, message, run, then the fields of the message.

    Args:
        run: output directory of a run, or None.
    """

    def __init__(self, run: str | None) -> None:
        super().__init__()
        self._run = {"run": run} if run is not None else {}

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        said: dict[str, Any] = {
            "time": time,
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **self._run,
        }
        said |= getattr(record, "fields", {})
        if record.exc_info:
            said["trace"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str)


def begin(run: str | None = None) -> None:
    """From now on all messages of this process are such lines, including those of libraries."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(run))
    root = logging.getLogger()
    root.handlers = [handler]
    logging.getLogger(_NAME).setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    _state["on"] = True


def is_on() -> bool:
    """Whether `begin` was called."""
    return _state["on"]


def say(message: str, level: int = logging.INFO, **fields: object) -> None:
    """One object."""
    logging.getLogger(_NAME).log(level, message, extra={"fields": fields})
