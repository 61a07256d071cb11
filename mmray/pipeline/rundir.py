"""The run directory: one object owns every name in it.

out/  plan.json  parts/*.parquet  rejects/*.parquet  faults/*.parquet  events.jsonl  summary.json
      report.html (see `mmray.report`)
      footers.cache of runs with many parts (see `mmray.pipeline.compact`)
      README.md and none.parquet for people and other libraries (see `mmray.pipeline.guide`)
      leases/ of the run that writes  broken/ damaged files, whose rows a later run processed again
"""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from mmray.errors import OutputError, RunError
from mmray.pipeline.guide import NONE, README, no_rejects
from mmray.remote import RefusedError, StoreError
from mmray.storage import Location

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # temporary errors, after which the same command can resume
_LOGGING = Lock()  # events come from the main thread and from the watchdog's
_log = logging.getLogger(__name__)
WRITTEN = ("parts", "rejects", "faults")  # directories of files with rows


@dataclass(frozen=True)
class RunDirectory:
    """Names and small files of one run. A part, its rejects and its shard faults share a file name."""

    root: Location
    lease: Location | None = None  # without it this run must not write (see `mmray.pipeline.lease`)

    @classmethod
    def at(cls, place: str, lease: str | None = None) -> RunDirectory:
        return cls(Location.parse(place), Location.parse(lease) if lease else None)

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
    def faults(self) -> Location:
        return self.root / "faults"

    @property
    def leases(self) -> Location:
        return self.root / "leases"

    @property
    def footers(self) -> Location:
        """The cache of footers (see `mmray.pipeline.compact`)."""
        return self.root / "footers.cache"

    @property
    def events(self) -> Location:
        return self.root / "events.jsonl"

    @property
    def summary(self) -> Location:
        return self.root / "summary.json"

    @property
    def report(self) -> Location:
        return self.root / "report.html"

    def read_plan(self) -> dict[str, Any] | None:
        """The plan of the run in the directory; None if there is no run yet.

        Raises:
            OutputError: the directory contains something else.
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
        if any(place.files() for place in (self.root, *self.folders)):
            raise OutputError(f"{self}: has files but no plan.json; choose an empty or new --output")
        return None

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Make the directories, then write the plan; if the plan exists, so do they.

        README.md comes last: without a plan the directory is not known to be ours.
        """
        with self.writing():
            for place in self.folders:
                place.make_directory()
            self.plan.write_atomically(json.dumps(plan, indent=1).encode())
            guides: list[tuple[Location, bytes | pa.Buffer]] = [(self.root / "README.md", README)]
            guides += [(place / NONE, no_rejects()) for place in (self.rejects, self.faults)]
            for place, content in guides:
                if not place.exists():
                    place.write_atomically(content)

    @property
    def folders(self) -> tuple[Location, ...]:
        """Files with a part's name: the part, its rejects, its shard faults."""
        return tuple(self.root / name for name in WRITTEN)

    def delete_part(self, name: str) -> None:
        """Delete a part, then its rejects and faults."""
        for place in self.folders:
            (place / name).delete()

    def move_to_broken(self, name: str) -> None:
        """Move the files of a part to broken/, where no run counts them; its rows are then missing."""
        self.check_lease()
        for place in self.folders:
            if (place / name).exists():
                (self.root / "broken").make_directory()
                (place / name).move_to(self.root / "broken" / f"{place.name}-{name}")

    def check_lease(self) -> None:
        """Call it before anything is written or deleted.

        Raises:
            RunError: another run has taken the directory over.
        """
        if self.lease and not self.lease.exists():
            raise RunError(
                f"{self}: another run has taken it over, so this run stopped writing; wait for the other one"
            )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Wraps the body that makes the first files of a run.

        Raises:
            OutputError: the directory cannot be written to.
            RunError: the disk is full or fails.
        """
        try:
            yield
        except RefusedError as e:
            raise OutputError(f"{e}; choose another --output") from e
        except StoreError:
            raise
        except OSError as e:
            reason = e.strerror or str(e)
            if e.errno in _FULL:
                raise RunError(
                    f"{self}: {reason}; free disk space there, and run the same command again"
                ) from e
            raise OutputError(f"{self}: cannot be written ({reason}); choose another --output") from e

    def log(self, event: str, **details: object) -> None:
        """Append to events.jsonl. There are at most thousands of events: the file is rewritten completely."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **details}
        # For log collectors of the driver; the display shows progress more often.
        _log.log(logging.DEBUG if event == "progress" else logging.INFO, event, extra={"fields": details})
        with _LOGGING:
            earlier = self.events.read_bytes() if self.events.exists() else b""
            self.events.write_atomically(earlier + json.dumps(line).encode() + b"\n")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        self.summary.write_atomically(json.dumps(summary, indent=1).encode())
