"""Two runs side by side: times, counts, labels, and how often they agree on common rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmray.page.document import document, section, table_html
from mmray.page.table import Table, share
from mmray.report.bottleneck import stages
from mmray.report.counting import Buckets, Few, Names, Share, Sums
from mmray.report.facts import Run
from mmray.report.judged import GROUP
from mmray.report.page import STYLE
from mmray.report.rows import batches
from mmray.report.tables import cut, pairs_table, percent, shares_table
from mmray.report.verdict import verdict

_SETS = 16
_SHOWN = 30
_READ = ("shard", "row", "label", "modalities")


@dataclass
class Agreement:
    """How often two runs gave the same label."""

    by_set: list[Share] = field(default_factory=list)  # by the modalities that the second one predicted from
    all: Share | None = None  # None: no row in common
    gain: Share | None = None  # in accuracy, of the second run; None: the second run carried no labels
    changed: Few[tuple[str, str]] = field(default_factory=Few)  # label of the first, label of the second
    labels: dict[str, int] = field(default_factory=dict)  # of the first, on these rows


def compare_html(first: Run, second: Run) -> str:
    """The page. `A` is the first run, `B` the second.

    Raises:
        OSError: a part cannot be read.
    """
    heads = ""
    for side, run in (("A", first), ("B", second)):
        state, line = verdict(run)
        heads += f'<p class="verdict {state}"><strong>{side}: {escape(run.name)}.</strong> {escape(line)}</p>'
    title = f"Runs {first.name} and {second.name}"
    return document(title, heads + "".join(_sections(first, second)), style=STYLE)


def agreement(first: Run, second: Run) -> Agreement:
    """Compare the labels of rows of the same shard and number; rows without a label count, too.

    Takes four bytes of memory for each row of the first run.
    """
    found, names = Agreement(), Names(1 << 24)
    known: dict[str, npt.NDArray[np.int32]] = {}
    for rows in _labelled(first, names):
        there = known.get(rows.shard, np.zeros(0, np.int32))
        if (size := int(rows.rows.max()) + 1) > len(there):
            there = np.concatenate([there, np.full(max(size, 2 * len(there)) - len(there), -1, np.int32)])
        there[rows.rows] = rows.labels
        known[rows.shard] = there
    sets, buckets = Names(_SETS), Buckets()
    sums, gains = Sums(_SETS + 1), Sums(1)
    numbers = list[str]()
    for rows in _labelled(second, names):
        before = known.get(rows.shard, np.zeros(0, np.int32))
        common = rows.rows < len(before)
        common[common] = before[rows.rows[common]] >= 0
        a, b, truth = before[rows.rows[common]], rows.labels[common], rows.truth[common]
        slices = np.array([sets.number(name) for name in np.asarray(rows.sets, object)[common]], np.int64)
        places = buckets.of(rows.groups.filter(pa.array(common)))
        sums.add(slices, places, a == b)
        judged = truth >= 0
        gain = (b == truth).astype(np.float64) - (a == truth)
        gains.add(np.zeros(judged.sum(), np.int64), places[judged], gain[judged])
        numbers = numbers if len(numbers) == len(names.numbers) else list(names.numbers)
        pairs, counts = np.unique(np.stack([a, b]), axis=1, return_counts=True)
        for (was, now), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
            found.labels[numbers[was]] = found.labels.get(numbers[was], 0) + count
            if was != now:
                found.changed.add((numbers[was], numbers[now]), count)
    if sums.records.sum():
        found.all = sums.share("all", range(_SETS + 1))
        shares = [
            sums.share(name, [i if i < len(sets.numbers) else _SETS]) for i, name in enumerate(sets.named())
        ]
        found.by_set = sorted((s for s in shares if s.records), key=lambda s: -s.records)
    if gains.records.sum():
        found.gain = gains.difference("B - A", [0])
    return found


class _Labelled(NamedTuple):
    """Rows of one shard."""

    shard: str
    rows: npt.NDArray[np.int64]  # [N]
    labels: npt.NDArray[np.int32]  # [N], their names' numbers
    truth: npt.NDArray[np.int32]  # [N], of the labels that they carried; -1 where none
    sets: list[str]  # of each, what it was predicted from
    groups: pa.Array  # [N], of records that are not independent; null: in no group


def _labelled(run: Run, names: Names) -> Iterator[_Labelled]:
    carried = run.rows.judged.column if run.rows.judged else "no labels"
    for columns, batch in batches(run.out, run.ledger, (*_READ, carried, GROUP)):
        if "label" not in columns:
            return
        labels = _numbered(pc.fill_null(batch["label"], "(no label)"), names)
        truth = _numbered(batch[carried], names) if carried in columns else np.full(len(labels), -1, np.int32)
        sets = pc.binary_join(batch["modalities"].combine_chunks(), "+")
        groups = batch[GROUP].combine_chunks() if GROUP in columns else pa.nulls(len(labels), pa.string())
        rows, shards = batch["row"].to_numpy(), batch["shard"].combine_chunks()
        for shard in shards.unique().to_pylist():
            at = np.flatnonzero(pc.equal(shards, shard).to_numpy(zero_copy_only=False))
            taken = pa.array(at)
            yield _Labelled(
                shard, rows[at], labels[at], truth[at], sets.take(taken).to_pylist(), groups.take(taken)
            )


def _numbered(column: pa.ChunkedArray, names: Names) -> npt.NDArray[np.int32]:
    """Numbers [N] of names; -1 of a null."""
    encoded = column.combine_chunks().dictionary_encode()
    numbers = np.array([names.number(name) for name in encoded.dictionary.to_pylist()], np.int32)
    at = pc.fill_null(encoded.indices, -1).to_numpy()
    found: npt.NDArray[np.int32] = np.append(numbers, np.int32(-1))[at]
    return found


def _sections(first: Run, second: Run) -> Iterator[str]:
    yield from section("Times", _times(first, second))
    yield from _answers(first, second)
    for title, name, a, b in (
        ("What records were predicted from", "modalities", first.ledger.modalities, second.ledger.modalities),
        (
            "Rejects",
            "kind",
            first.ledger.rejects + first.ledger.faults,
            second.ledger.rejects + second.ledger.faults,
        ),
        ("Labels", "label", first.rows.labels.counts, second.rows.labels.counts),
    ):
        yield from section(title, _counts(name, a, b, first.ledger.rows, second.ledger.rows))


def _answers(first: Run, second: Run) -> Iterator[str]:
    judged = [
        (f"{side}: {run.name}", run.rows.judged.all)
        for side, run in (("A", first), ("B", second))
        if run.rows.judged and run.rows.judged.labels.total
    ]
    if judged:
        shares = [Share(name, s.records, s.mean, s.low, s.high) for name, s in judged]
        yield from section("Accuracy, each on its own records", shares_table("run", shares))
    found = agreement(first, second)
    yield "<h2>Do they agree?</h2>"
    if found.all is None:
        yield "<p>They have no labelled rows in common.</p>"
        return
    yield (
        f"<p>{share(found.all.mean)} of {found.all.records:,} rows that both have got the same label; "
        f"95 % interval [{share(found.all.low)}, {share(found.all.high)}].</p>"
    )
    if found.gain:
        low, high = (100 * value for value in (found.gain.low, found.gain.high))
        yield (
            f"<p>On the {found.gain.records:,} of them whose labels are known, B is right more often by "
            f"{100 * found.gain.mean:+.1f} points; 95 % interval [{low:+.1f}, {high:+.1f}], paired.</p>"
        )
    yield table_html("Agreement by modalities", shares_table("B predicted from", found.by_set, "same label"))
    changed = found.changed.common()[:_SHOWN]
    if changed:
        table = pairs_table(changed, found.labels)
        named = Table(
            ("label of A", "label of B", "rows", "of this label of A"),
            table.rows,
            frozenset({"label of A", "label of B"}),
        )
        yield table_html("Labels that changed", named)


def _times(first: Run, second: Run) -> Table:
    a, b = first.this_run, second.this_run
    rows = [("bundle", *(str(r.plan["identity"].get("bundle"))[:12] for r in (first, second)), "")]
    rows += [
        (key, *(cut(str(r.plan.get(key, ""))) for r in (first, second)), "")
        for key in ("variant", "topology")
    ]
    figures: Sequence[tuple[str, str, str]] = (
        ("rows/s", "rows_per_s", ",.1f"),
        ("rows of the latest call", "rows", ",d"),
        ("its seconds", "elapsed_s", ",.1f"),
        ("startup seconds", "startup_s", ",.1f"),
        ("actors", "actors", ",d"),
    )
    for title, key, form in figures:
        if key in a and key in b:
            rows.append((title, format(a[key], form), format(b[key], form), _ratio(a[key], b[key])))
    per_row = [{s.name: 1e3 * s.seconds / max(1, run["rows"]) for s in stages(run)} for run in (a, b)]
    for name in dict.fromkeys([*per_row[0], *per_row[1]]):
        x, y = per_row[0].get(name, 0.0), per_row[1].get(name, 0.0)
        rows.append((f"{name}, ms a row", f"{x:.2f}", f"{y:.2f}", _ratio(x, y)))
    return Table(("", "A", "B", "B / A"), rows, frozenset({""}))


def _ratio(a: float, b: float) -> str:
    return f"{b / a:.2f}" if a else ""


def _counts(name: str, a: Mapping[str, int], b: Mapping[str, int], of_a: int, of_b: int) -> Table:
    keys = sorted({*a, *b}, key=lambda key: (-a.get(key, 0) - b.get(key, 0), key))[:_SHOWN]
    rows = [
        (
            cut(key),
            f"{a.get(key, 0):,}",
            percent(a.get(key, 0) / max(1, of_a)),
            f"{b.get(key, 0):,}",
            percent(b.get(key, 0) / max(1, of_b)),
        )
        for key in keys
    ]
    return Table((name, "A", "share", "B", "share of B"), rows, frozenset({name}))
