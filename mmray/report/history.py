"""The history of a run from events.jsonl: its calls, its progress over time, and its faults."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mmray.page.table import number
from mmray.pipeline.progress import EVENT

_SHOWN = 100  # events
_CALLS = ("started", "retry")


@dataclass
class Call:
    """One `mmray run` or `mmray retry`."""

    kind: str  # "started" or "retry"
    began: datetime
    done: int  # rows that were done before
    points: list[tuple[float, int]] = field(default_factory=list)  # seconds since it began, rows it has done
    busy: list[tuple[float, float]] = field(default_factory=list)  # seconds, share that devices were at work
    length_s: float = 0.0  # until its last event


@dataclass
class History:
    """All calls of a run, and their notable events."""

    calls: list[Call] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)  # time, words; the latest, at most 100
    left_out: int = 0  # earlier ones, which are left out
    lost: int = 0  # workers that died
    broke_off: int = 0

    @property
    def resumes(self) -> int:
        """How often the run was resumed."""
        return max(0, sum(call.kind == "started" for call in self.calls) - 1)

    @property
    def retries(self) -> int:
        return sum(call.kind == "retry" for call in self.calls)

    def curve(self) -> Iterator[list[tuple[float, int]]]:
        """For each call: seconds of work since the first began, without the pauses between, and rows done."""
        before_s = 0.0
        for call in self.calls:
            yield [(before_s, call.done), *((before_s + s, call.done + rows) for s, rows in call.points)]
            before_s += call.length_s


def read_history(events: bytes) -> History:
    """Parse events.jsonl. Malformed lines and unknown events are skipped."""
    history = History()
    told: list[tuple[str, str]] = []
    for event, when in _parsed(events.splitlines()):
        name = event["event"]
        if name in _CALLS:
            history.calls.append(Call(name, when, _count(event, "done")))
        if history.calls:
            call = history.calls[-1]
            call.length_s = max(call.length_s, (when - call.began).total_seconds())
            if name == EVENT:
                call.points.append((call.length_s, _count(event, "rows")))
                if "device_busy" in event:
                    call.busy.append((call.length_s, float(event["device_busy"])))
        history.lost += _count(event, "workers") if name == "lost" else 0
        history.broke_off += name == "broke off"
        if words := _words(event):
            told.append((f"{when:%Y-%m-%d %H:%M:%S}", words))
    history.told, history.left_out = told[-_SHOWN:], max(0, len(told) - _SHOWN)
    return history


def _parsed(lines: Iterable[bytes]) -> Iterator[tuple[dict[str, Any], datetime]]:
    for line in lines:
        try:
            event = json.loads(line)
            yield event | {"event": str(event["event"])}, datetime.fromisoformat(event["time"])
        except (ValueError, TypeError, KeyError):
            continue


def _count(event: Mapping[str, Any], name: str) -> int:
    value = event.get(name)
    return value if isinstance(value, int) else 0


def _words(event: Mapping[str, Any]) -> str:
    """An event in a line; empty if it is not worth a line."""
    match event["event"]:
        case "started":
            actors, done = number(_count(event, "actors"), "actor"), number(_count(event, "done"), "row")
            return f"started: {event.get('topology')} topology, {actors}, {done} done before"
        case "retry":
            parts = number(_count(event, "parts"), "part")
            return f"retry of {number(_count(event, 'rejects'), 'reject')} in {parts}"
        case "pass" if _count(event, "number") > 1:
            units = number(_count(event, "units"), "unit")
            return f"pass {event['number']}, over what is still missing: {units}"
        case "lost":
            return f"{number(_count(event, 'workers'), 'worker')} died: {event.get('at')}"
        case "set aside":
            files = event.get("files") or []
            return f"moved {number(len(files), 'damaged file')} to broken/: {', '.join(map(str, files[:3]))}"
        case "drift":
            return f"warning: {event.get('warning')}"
        case "broke off":
            return f"broke off: {event.get('reason')}"
        case "finished":
            clean = "clean" if event.get("ok") else "the audit is not clean"
            return f"finished, {clean}: {number(_count(event, 'rows'), 'row')}"
    return ""
