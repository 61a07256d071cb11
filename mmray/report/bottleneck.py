"""The bottleneck of a run, and the maximum gain without one of its stages. Arithmetic only.

The bound is Amdahl's (1967, "Validity of the single processor approach to achieving large scale computing
capabilities"): work that takes the share p of the time gives at most 1 / (1 - p) when it costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_DECODING = ("image", "text", "audio")
_PREPARING = ("read", "align", *_DECODING)  # stages of tasks that feed the devices, in the split topology
_NAMES = {
    "read": "reading",
    "align": "aligning",
    "image": "decoding of pictures",
    "text": "reading of texts",
    "audio": "decoding of sound",
    "model": "the model",
    "shadow": "shadow answers",
    "write": "writing",
}
_WORTH = 1.02  # smaller gains are not reported


@dataclass(frozen=True)
class Stage:
    """Where some of the time went."""

    name: str
    seconds: float  # of all workers together
    share: float  # of all work
    gain: float  # the rate without it, as a multiple, at most

    @property
    def words(self) -> str:
        return _NAMES.get(self.name, self.name)


def stages(this_run: Mapping[str, Any]) -> list[Stage]:
    """The stages that took time, in the order that data pass through them.

    Args:
        this_run: of summary.json.
    """
    seconds = {name: float(s) for name, s in this_run.get("stage_seconds", {}).items() if s}
    total = sum(seconds.values())
    return [
        Stage(name, s, s / total, _gain(name, s, seconds, this_run)) for name, s in seconds.items() if total
    ]


def bottleneck(this_run: Mapping[str, Any]) -> str:
    """What bounds the run, and the rate without that; empty if nothing was measured."""
    found = stages(this_run)
    if not found:
        return ""
    worst = max(found, key=lambda stage: (stage.gain, stage.share))
    advice = str(this_run.get("advice") or "")
    without = [s for s in sorted(found, key=lambda s: (-s.gain, -s.share)) if s.gain >= _WORTH][:3]
    gains = ", ".join(f"without {stage.words} at most {stage.gain:.2g} times as fast" for stage in without)
    bound = f"Bound by {worst.words} ({worst.share:.0%} of the work)"
    return (
        ". ".join(filter(None, [advice and advice[0].upper() + advice[1:], bound, gains.capitalize()])) + "."
    )


def _gain(name: str, seconds: float, every: Mapping[str, float], this_run: Mapping[str, Any]) -> float:
    """With devices the slower side bounds the rate; without, each worker does all stages in turn."""
    cpus, devices = this_run.get("cpu_rows_per_s"), this_run.get("device_rows_per_s")
    if not cpus or not devices:
        rest = sum(every.values()) - seconds
        return sum(every.values()) / rest if rest > 0 else 1.0
    now = min(cpus, devices)
    if name == "model":
        return float(cpus / now)
    prepared = sum(s for stage, s in every.items() if stage in _PREPARING)
    if name not in _PREPARING or prepared <= 0:
        return 1.0
    rest = 1 - seconds / prepared
    return float(min(cpus / rest if rest > 0 else devices, devices) / now)
