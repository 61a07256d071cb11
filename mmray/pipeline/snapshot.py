"""Messages of workers, and the counts of all workers at one time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from mmray.coverage import Missing
from mmray.drift import Counts, Drift

_LEAST_S = 0.5  # over a shorter time a rate is meaningless

START = "start"  # the stage of a worker that loads its model

#: Stages whose seconds are counted, in the order that data pass through them.
STAGES = ("read", "align", "image", "text", "audio", "model", "shadow", "write")


class Place(NamedTuple):
    """Rows of one shard that a worker processes."""

    shard: str  # id
    rows: Missing

    @property
    def name(self) -> str:
        """Readable name of the shard."""
        return self.shard.rpartition("@")[0]


End = Literal["died", "hung", "out of memory"]  # the last two end the process themselves


class Doing(NamedTuple):
    """What a worker is doing."""

    stage: str
    places: tuple[Place, ...] = ()
    end: End = "died"  # how it ended, if it has


class Message(NamedTuple):
    """A worker's message. The head node pays for each message more than for its contents."""

    stage: str
    places: tuple[Place, ...] | None = None  # the rows that it processes; None: the same as before
    counts: Mapping[str, float] = {}  # the others as of `Meter.add`
    occupied: Mapping[str, float] = {}
    device: str = ""
    seen: Counts | None = None


@dataclass(frozen=True)
class DeviceUse:
    """Use of one device so far."""

    busy_s: float  # at work
    planned_s: float  # in the first inference of a shape, which plans its kernels
    copied_s: float  # copies to it and back, which run while it works
    wall_s: float  # between its first inference and the latest
    shapes: Mapping[str, int]  # batches by shape
    changes: int  # how often a batch had another shape than the previous one
    padding: Mapping[str, float]  # share of padding: rows, images, texts, tokens, patches

    @classmethod
    def of(cls, counts: Mapping[str, float]) -> DeviceUse:
        """From what `mmray.predictor.blame.Runner.occupied` counts."""
        places = {k[7:]: n for k, n in counts.items() if k.startswith("places ") and n}
        return cls(
            busy_s=float(counts["busy"]),
            planned_s=float(counts["planned"]),
            copied_s=float(counts["copied"]),
            wall_s=float(counts["wall"]),
            shapes={k[6:]: int(n) for k, n in sorted(counts.items()) if k.startswith("shape ")},
            changes=int(counts["changes"]),
            padding={name: 1 - counts[f"used {name}"] / n for name, n in places.items()},
        )

    def to_json(self) -> dict[str, Any]:
        """For summary.json."""
        rest_s = self.wall_s - self.planned_s
        return {
            "busy": round(self.busy_s / rest_s, 4) if rest_s > 0 else 0.0,
            "busy_s": round(self.busy_s, 3),
            "planned_s": round(self.planned_s, 3),
            "copied_s": round(self.copied_s, 3),
            "wall_s": round(self.wall_s, 3),
            "batches": sum(self.shapes.values()),
            "shapes": dict(self.shapes),
            "changes": self.changes,
            "padding": {name: round(share, 4) for name, share in self.padding.items()},
        }


@dataclass(frozen=True)
class Snapshot:
    """Counts of this run so far, without those of an earlier one."""

    rows: int = 0  # predicted and rejected
    rejects: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)  # busy seconds of each stage, all workers
    task_s: float = 0.0  # seconds of the tasks that prepare for actors (split topology)
    devices: Mapping[str, DeviceUse] = field(default_factory=dict)  # by the name of the actor's device
    first: float = 0.0  # Unix time of the first block that was predicted, and how many rows it had
    first_rows: int = 0
    last: float = 0.0  # Unix time of the latest
    moves: int = 0  # grows with rows, and when a worker starts or gives up
    doing: Mapping[str, Doing] = field(default_factory=dict)  # by worker
    broken: str = ""  # why a worker cannot continue: a fault that is not a record's
    unreadable: Mapping[str, str] = field(default_factory=dict)  # shards by name, and why
    left: Mapping[int, int] = field(default_factory=dict)  # rows by the stage of a cascade that answered them
    shadowed: int = 0  # early answers that were compared with full ones
    agreed: int = 0  # of those
    shift: str = ""  # why early answers can no longer be trusted
    canary: Mapping[str, float] = field(default_factory=dict)  # as `mmray.canary.Canary.compare` counts
    drift: Drift | None = None  # None: nothing to compare records with

    @property
    def rows_per_s(self) -> float:
        """Rate since the first block, so that startup does not count; 0 shortly after it."""
        elapsed = self.last - self.first
        return (self.rows - self.first_rows) / elapsed if elapsed > _LEAST_S else 0.0

    @property
    def device_s(self) -> float:
        """Seconds that the devices were at work."""
        return sum(use.busy_s for use in self.devices.values())

    @property
    def device_busy(self) -> float:
        """Share of the time that the devices were at work, planning left out; 0 where nothing ran."""
        wall_s = sum(use.wall_s - use.planned_s for use in self.devices.values())
        return self.device_s / wall_s if wall_s > 0 else 0.0
