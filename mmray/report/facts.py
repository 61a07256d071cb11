"""A run, read from its directory: plan, summary, parts, events, examples of rejects."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from mmray.errors import OutputError
from mmray.pipeline.ledger import Ledger
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.sink import read_rejects
from mmray.report.history import History, read_history
from mmray.report.judged import Place
from mmray.report.rows import Rows, read_rows

_EXAMPLES = 3  # of each kind of rejects
_FILES = 200  # of reject files that are opened for examples


@dataclass(frozen=True)
class Example:
    """One reject."""

    kind: str  # "stage/type"
    place: Place
    offset: int  # of the record in its shard
    reason: str


@dataclass(frozen=True)
class Run:
    """What is known of one run."""

    out: RunDirectory
    plan: dict[str, Any]
    summary: dict[str, Any]  # empty if the run did not finish
    ledger: Ledger
    history: History
    rows: Rows
    examples: list[Example] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.out.root.name

    @property
    def this_run(self) -> dict[str, Any]:
        """Figures of the latest call that processed rows."""
        found: dict[str, Any] = self.summary.get("this_run", {})
        return found

    @property
    def finished(self) -> bool:
        """Whether summary.json describes the parts that are there."""
        return self.summary.get("rows") == self.ledger.rows


def load(out: RunDirectory, labels: str | None = None, *, kept: int = 30) -> Run:
    """Read a run directory, also of an unfinished run.

    Args:
        out: the run directory.
        labels: the field with true labels, as of `read_rows`.
        kept: how many mistakes are kept.

    Raises:
        OutputError: not a run directory.
        UsageError: the run did not carry that field.
        OSError: a file cannot be read.
    """
    plan = out.read_plan()
    if plan is None:
        raise OutputError(f"{out}: not a run directory (no plan.json); check the path")
    ledger = Ledger.load(out)
    summary = json.loads(out.summary.read_bytes()) if out.summary.exists() else {}
    events = out.events.read_bytes() if out.events.exists() else b""
    rows = read_rows(out, ledger, labels, kept=kept)
    return Run(out, plan, summary, ledger, read_history(events), rows, _examples(out, ledger))


def _examples(out: RunDirectory, ledger: Ledger) -> list[Example]:
    """Some rejects and shard faults of each kind; opens only files with kinds of which more are wanted."""
    found: dict[str, list[Example]] = {}
    wanted = {kind: min(_EXAMPLES, n) for kind, n in (ledger.rejects + ledger.faults).items()}
    opened: Counter[str] = Counter()
    for part in sorted(ledger.parts, key=lambda part: part.name):
        lacking = {kind for kind in part.rejects if len(found.get(kind, ())) < wanted[kind]}
        if not lacking or opened.total() >= _FILES:
            continue
        opened[part.name] += 1
        for row in read_rejects(out, part).to_pylist():
            kind = f"{row['stage']}/{row['type']}"
            if kind in lacking and len(found.setdefault(kind, [])) < wanted[kind]:
                place = Place(row["shard"], row["row"], row["key"])
                found[kind].append(Example(kind, place, row["offset"], row["reason"]))
    return [example for kind in wanted for example in found.get(kind, ())]
