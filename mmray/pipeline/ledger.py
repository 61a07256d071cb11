"""The rows that a run's parts cover, read from their footers: the run's only record of finished rows.

A part, the rejects and the shard faults of the same rows share a file name. The part is written last: if it
exists, all do. Parts may overlap after a crash or a retry: then the larger one counts, and `clean_up` deletes
the other.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from sys import intern
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmray.coverage import Interval, Missing, insert, missing, overlaps
from mmray.pipeline import compact
from mmray.pipeline.guide import NONE
from mmray.pipeline.rundir import RunDirectory
from mmray.remote import StoreError
from mmray.sources import Shard
from mmray.storage import Location
from mmray.unread import Count, Tally

FOOTER_KEY = b"mmray"
FAULT = "shard/"  # rejects of this stage are shard faults: they hide an unknown number of records
_READERS = 16  # threads that read footers
_BATCH = 64  # footers that a thread reads in one task: a future for each would cost a tenth of the memory


@dataclass(frozen=True, slots=True)
class Part:
    """The footer of one part."""

    name: str
    coverage: Mapping[str, list[Interval]]  # by shard id
    totals: Mapping[str, int]  # rows of those shards whose end was seen
    predicted: int
    rejects: Mapping[str, int]  # "stage/type": rows, shard faults among them
    modalities: Mapping[str, int]  # "image+text": rows that were predicted from these
    faulty: Sequence[str] = ()  # ids of shards with faults
    unread: Mapping[str, Count] = field(default_factory=dict)  # what was not read of them, by kind
    carried: Mapping[str, int] = field(default_factory=dict)  # rows with a value, by column meta_<name>
    abstained: int = 0  # predicted rows without a label

    @property
    def rejected(self) -> int:
        return sum(self.rejects.values()) - self.faults

    @property
    def faults(self) -> int:
        return sum(n for kind, n in self.rejects.items() if kind.startswith(FAULT))

    @property
    def rows(self) -> int:
        return sum(interval.rows for intervals in self.coverage.values() for interval in intervals)

    def to_footer(self) -> bytes:
        """The value of FOOTER_KEY in its footer."""
        content = {
            "coverage": self.coverage,
            "totals": self.totals,
            "predicted": self.predicted,
            "rejects": self.rejects,
            "modalities": self.modalities,
            "faulty": self.faulty,
            "unread": self.unread,
            "carried": self.carried,
            "abstained": self.abstained,
        }
        return json.dumps(content, sort_keys=True).encode()

    @classmethod
    def read(cls, place: Location) -> Part | None:
        """Read a part's footer; None if the file is not a part of a run.

        Raises:
            StoreError: the store failed; the file may be intact.
        """
        try:
            with place.open_input() as file:
                metadata = pq.read_metadata(file).metadata or {}
            return cls.from_footer(place.name, metadata[FOOTER_KEY])
        except StoreError:
            raise
        except (OSError, pa.ArrowException, KeyError):
            return None

    @classmethod
    def from_footer(cls, name: str, footer: bytes) -> Part | None:
        """Reverse of `to_footer`; None if the value is something else."""
        try:
            return cls._parsed(name, footer)
        except (KeyError, TypeError, ValueError, AttributeError):
            return None

    @classmethod
    def _parsed(cls, name: str, footer: bytes) -> Part:
        content: dict[str, Any] = json.loads(footer)
        coverage = {intern(s): [Interval(*i) for i in runs] for s, runs in content.pop("coverage").items()}
        content["unread"] = {kind: Count(*count) for kind, count in content.get("unread", {}).items()}
        return cls(name, coverage, **content)


@dataclass
class Ledger:
    """The parts that count, and the rows that they cover together."""

    parts: list[Part] = field(default_factory=list)
    superseded: list[str] = field(default_factory=list)  # parts whose rows others have, too
    foreign: list[str] = field(default_factory=list)  # files in parts/ that are not parts
    orphans: list[str] = field(default_factory=list)  # "rejects/x.parquet": rejects and faults without a part
    incomplete: list[str] = field(default_factory=list)  # parts whose rejects or faults are missing
    coverage: dict[str, list[Interval]] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, out: RunDirectory, *, uncached: bool = False) -> Ledger:
        """Read every footer of the run that is not in the cache.

        The run that holds the directory updates the cache if many footers were read.

        Args:
            out: the run directory.
            uncached: open each part, even if its footer is in the cache.
        """
        files = {file.base_name: file for file in out.parts.files()}
        kept = () if uncached else compact.kept(out, files)
        known = {name: part for name, footer in kept if (part := Part.from_footer(name, footer))}
        unknown = [name for name in files if name not in known]
        batches = [unknown[i : i + _BATCH] for i in range(0, len(unknown), _BATCH)]
        with ThreadPoolExecutor(_READERS) as pool:
            read = pool.map(lambda batch: [Part.read(out.parts / name) for name in batch], batches)
            opened = dict(zip(unknown, (part for batch in read for part in batch), strict=True))
        parts = [part for part in (*known.values(), *opened.values()) if part is not None]
        if out.lease and compact.pays(len(opened), len(known)):
            compact.keep(out, ((files[part.name], part.to_footer()) for part in parts))
        ledger = cls.of(parts)
        ledger.foreign = [name for name, part in opened.items() if part is None]
        whole = {part.name for part in ledger.parts} | set(ledger.superseded)
        for folder, holds in ((out.rejects, "rejected"), (out.faults, "faults")):
            there = {file.base_name for file in folder.files()} - {NONE}
            ledger.orphans += [f"{folder.name}/{name}" for name in sorted(there - whole)]
            ledger.incomplete += [p.name for p in ledger.parts if getattr(p, holds) and p.name not in there]
        return ledger

    @classmethod
    def of(cls, parts: Iterable[Part]) -> Ledger:
        """Choose among overlapping parts: more rows first, then more predictions, then by name."""
        ledger = cls()
        for part in sorted(parts, key=lambda p: (-p.rows, -p.predicted, p.name)):
            runs = [(s, interval) for s, intervals in part.coverage.items() for interval in intervals]
            if any(overlaps(ledger.coverage.get(shard, []), interval) for shard, interval in runs):
                ledger.superseded.append(part.name)
                continue
            ledger.parts.append(part)
            ledger.totals.update(part.totals)
            for shard, interval in runs:
                if shard in ledger.coverage:
                    insert(ledger.coverage[shard], interval)
                else:
                    ledger.coverage[shard] = [interval]
        return ledger

    def clean_up(self, out: RunDirectory) -> None:
        """Delete leftovers of a crash: superseded parts with their rejects, orphaned rejects, torn files.

        Call it only while no worker writes.
        """
        out.check_lease()
        for name in self.superseded:
            out.delete_part(name)
        for name in self.orphans:
            (out.root / name).delete()
        for place in out.folders:
            for file in place.leftovers():
                file.delete()
        self.superseded, self.orphans = [], []

    def missing(self, shards: Iterable[Shard]) -> list[tuple[Shard, list[Missing]]]:
        """The shards that are not done, with their missing rows."""
        gaps = ((s, missing(self.coverage.get(s.id, []), self.totals.get(s.id))) for s in shards)
        return [(shard, gap) for shard, gap in gaps if gap]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def predicted(self) -> int:
        return sum(part.predicted for part in self.parts)

    @property
    def abstained(self) -> int:
        return sum(part.abstained for part in self.parts)

    @property
    def rejects(self) -> Counter[str]:
        """Rejected records by "stage/type"."""
        return Counter({kind: n for kind, n in self._rejects.items() if not kind.startswith(FAULT)})

    @property
    def faults(self) -> Counter[str]:
        """Shard faults by "stage/type"."""
        return self._rejects - self.rejects

    @property
    def faulty(self) -> set[str]:
        """Ids of the shards with faults."""
        return {shard for part in self.parts for shard in part.faulty}

    @property
    def _rejects(self) -> Counter[str]:
        return sum((Counter(part.rejects) for part in self.parts), Counter())

    @property
    def unread(self) -> Tally:
        """What was not read of the records, by kind."""
        tally = Tally()
        for part in self.parts:
            tally.add_all(part.unread)
        return tally

    @property
    def carried(self) -> Counter[str]:
        """Rows with a value, by column meta_<name>; 0 for a column without values."""
        found: Counter[str] = Counter()
        for part in self.parts:
            found.update(part.carried)
        return found

    @property
    def modalities(self) -> Counter[str]:
        return sum((Counter(part.modalities) for part in self.parts), Counter())
