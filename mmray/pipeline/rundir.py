"""The run directory: one object owns every name in it.

out/  plan.json  parts/*.parquet  rejects/*.parquet  events.jsonl  summary.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow.fs as pafs

from mmray.errors import OutputError
from mmray.storage import Location

WRITTEN = ("parts", "rejects")  # directories of files with rows


@dataclass(frozen=True)
class RunDirectory:
    """Names and small files of one run. Parts and rejects of the same rows share a file name."""

    root: Location

    @classmethod
    def at(cls, place: str) -> RunDirectory:
        return cls(Location.parse(place))

    def __str__(self) -> str:
        return str(self.root)

    @property
    def plan(self) -> Location:
        return self.root / "plan.json"

    @property
    def parts(self) -> Location:
        return self.root / "parts"

    @property
    def rejects(self) -> Location:
        return self.root / "rejects"

    @property
    def events(self) -> Location:
        return self.root / "events.jsonl"

    @property
    def summary(self) -> Location:
        return self.root / "summary.json"

    def read_plan(self) -> dict[str, Any] | None:
        """The plan that the directory was made with, or None where there is no run yet.

        Raises:
            OutputError: a directory that holds something else.
        """
        if self.root.info().type == pafs.FileType.File:
            raise OutputError(f"{self}: is a file; choose another --output")
        if self.plan.exists():
            try:
                plan: dict[str, Any] = json.loads(self.plan.read_bytes())
                if not {"identity", "config", "shards"} <= plan.keys():
                    raise ValueError("keys are missing")
            except (ValueError, AttributeError) as e:
                raise OutputError(f"{self.plan}: not a plan of mmray ({e}); choose another --output") from e
            return plan
        if any(place.files() for place in (self.root, self.parts, self.rejects)):
            raise OutputError(f"{self}: holds files but no plan.json; choose an empty or new --output")
        return None

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Make the directories and write the plan, last, so that its presence means that they are there."""
        for place in (self.parts, self.rejects):
            place.make_directory()
        self.plan.write_atomically(json.dumps(plan, indent=1).encode())

    def log(self, event: str, **details: object) -> None:
        """Append to events.jsonl. Events are few (start, passes, end): the file is rewritten whole."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **details}
        earlier = self.events.read_bytes() if self.events.exists() else b""
        self.events.write_atomically(earlier + json.dumps(line).encode() + b"\n")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        self.summary.write_atomically(json.dumps(summary, indent=1).encode())
