"""The sections of a report on one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from mmray.page.document import figure_html, section, table_html
from mmray.page.table import Markup, Table, number, share
from mmray.report.bottleneck import bottleneck
from mmray.report.confusion import confusion_html
from mmray.report.facts import Run
from mmray.report.judged import Judged
from mmray.report.plots import draw_calibration, draw_confidence, draw_progress
from mmray.report.tables import (
    bar,
    counts_table,
    cut,
    devices_table,
    examples_table,
    history_table,
    mistakes_table,
    percent,
    shares_table,
    stages_table,
    unread_table,
)

_TALL = ((720.0, 260.0), (345.0, 240.0))
_SQUARE = ((430.0, 380.0), (345.0, 320.0))


def overview(run: Run) -> Iterator[str]:
    """What was run, and how fast."""
    this_run, config = run.this_run, run.plan["config"]
    ran, digest = run.plan | this_run, str(run.plan["identity"].get("bundle"))
    facts = [
        ("input", " ".join(config.get("input", ()))),
        ("bundle", f"{config.get('bundle')} {digest[:12]}, {run.plan.get('variant')}"),
        ("output", str(run.out)),
        ("mmray", str(run.plan.get("mmray", ""))),
        ("topology", f"{ran.get('topology')}, {number(int(ran.get('actors') or 0), 'actor')}"),
    ]
    if this_run:
        rate = this_run.get("rows_per_s")
        took = f"{number(this_run.get('rows', 0), 'row')} in {this_run.get('elapsed_s', 0):,.1f} s"
        took += f", of which {this_run.get('startup_s', 0):,.1f} s to the first row"
        facts.append(("latest call", took + (f"; then {rate:,.1f} rows/s" if rate else "")))
    facts += [("note", str(note)) for note in run.plan.get("notes", ())]
    rows = "".join(f"<dt>{name}</dt><dd>{escape(cut(value, 300))}</dd>" for name, value in facts)
    yield f"<dl>{rows}</dl>"


def time_sections(run: Run) -> Iterator[str]:
    """Rows over time, stages, devices."""
    this_run = run.this_run
    if any(call.points for call in run.history.calls):
        caption = "Rows predicted and rejected. Pauses between two calls are left out"
        caption += "; dashed: the run was resumed." if len(run.history.calls) > 1 else "."
        yield "<h2>Rows over time</h2>"
        yield figure_html(lambda size: draw_progress(run.history, size), caption, _TALL)
    stages = stages_table(this_run)
    if stages.rows:
        yield f"<h2>Where the time went</h2><p>{escape(bottleneck(this_run))}</p>"
        yield table_html("Where the time went", stages)
        yield (
            '<p class="faint">Busy seconds of all workers in the latest call. Without it, at most: the rate '
            "if that stage cost nothing and the rest stayed the same (Amdahl 1967).</p>"
        )
    yield from section("Devices", devices_table(this_run.get("devices", {})))
    if this_run.get("devices"):
        yield (
            '<p class="faint">Bar: <b class="blue">at work</b>, <b class="orange">planning kernels</b> for '
            "a new shape, waiting. Copies run while a device works.</p>"
        )


def record_sections(run: Run) -> Iterator[str]:
    """What the records contained, what was not read, what was rejected."""
    ledger, summary = run.ledger, run.summary
    yield from section(
        "What records were predicted from",
        counts_table("modalities", ledger.modalities.most_common(), ledger.predicted),
    )
    unread = {**ledger.unread.to_json(), **summary.get("unread_files", {})}
    yield from section("What was not read", unread_table(unread))
    empty = [f"Shards without records: {summary['empty_shards']:,}."] if summary.get("empty_shards") else []
    empty += [f"{name} is null in all rows." for name in summary.get("null_columns", ())]
    yield "".join(f"<p>{escape(line)}</p>" for line in empty)
    rejects = ledger.rejects + ledger.faults
    yield from section("Rejects", counts_table("kind", rejects.most_common(), ledger.rows))
    if run.examples:
        yield table_html("Examples of rejects", examples_table(run.examples))
        yield (
            '<p class="faint">Up to three of each kind; <code>rejects/</code> and <code>faults/</code> '
            "have all.</p>"
        )


def answer_sections(run: Run) -> Iterator[str]:
    """Labels, confidence, exits of a cascade, records without a label."""
    rows, cascade = run.rows, run.this_run.get("cascade")
    yield from section(
        "Labels", counts_table("label", rows.labels.common(), rows.labels.total, rows.labels.rest)
    )
    if rows.confidence.sum():
        caption = "Probability of the best class, according to the model."
        if rows.judged:
            caption += ' <b class="orange">A label other</b> than the one that the record carried.'
        yield "<h2>Confidence</h2>"
        yield figure_html(lambda size: draw_confidence(rows, size), caption, _TALL)
    if rows.abstained:
        yield from section("Records without a label because the score was too low", _abstained(run))
    if rows.stages:
        counts = [(f"stage {stage}", n) for stage, n in sorted(rows.stages.items())]
        yield from section(
            "Which stage of the cascade answered", counts_table("answered by", counts, rows.stages.total())
        )
    if cascade:
        said = []
        if cascade["shadowed"]:
            said.append(
                f"{cascade['agreed']:,} of {cascade['shadowed']:,} early answers agree with the full model."
            )
        if cascade["saved_s"] is not None:
            said.append(f"Early answers saved about {cascade['saved_s']:,.1f} s of work.")
        said += [f"Warning: {cascade['shift']}."] if cascade["shift"] else []
        yield f"<p>{escape(' '.join(said))}</p>" if said else ""
    if canary := run.this_run.get("canary"):
        yield from section("Does the second bundle agree?", _canary(canary["slices"]))
    if drift := run.this_run.get("drift"):
        yield from _drift(drift)


def truth_sections(run: Run) -> Iterator[str]:
    """Accuracy, calibration, confusion and mistakes, where records carried labels."""
    judged = run.rows.judged
    if judged is None or not judged.labels.total:
        return
    found = judged.all
    field = escape(judged.column.removeprefix("meta_"))
    clustered = "clustered by caption group" if judged.groups else "each record independent of the others"
    yield (
        f"<h2>Accuracy</h2><p>{share(found.mean)} of {found.records:,} labels are the one in the field "
        f"<code>{field}</code> of the record; 95 % interval [{share(found.low)}, {share(found.high)}], "
        f"{clustered}.</p>"
    )
    if judged.abstained:
        yield f"<p>{judged.abstained:,} records that carry a label got none; they do not count here.</p>"
    if not found.mean:
        yield "<p>None is right: does the field contain names of the model's classes?</p>"
    yield table_html("Accuracy by modalities", shares_table("predicted from", judged.by_set))
    if len(judged.by_shard) > 1:
        yield table_html("Accuracy by shards", shares_table("shards", judged.by_shard))
    yield from _calibration(judged)
    yield from confusion_html(judged)
    yield from section("Most confident mistakes", mistakes_table(judged.worst[:30]))


def history_sections(run: Run) -> Iterator[str]:
    """Resumes, retries and faults."""
    history = run.history
    facts = (
        ("Continued", history.resumes),
        ("retries", history.retries),
        ("broke off", history.broke_off),
        ("workers that died", history.lost),
    )
    said = ", ".join(f"{what}: {n:,}" for what, n in facts)
    yield f"<h2>What happened</h2><p>{said}.</p>"
    if history.told:
        yield table_html("What happened", history_table(history))
    if history.left_out:
        yield f'<p class="faint">{history.left_out:,} earlier events are in events.jsonl.</p>'


def _calibration(judged: Judged) -> Iterator[str]:
    bins = judged.bins
    if not bins:
        return
    yield "<h2>Is the confidence right?</h2>"
    caption = (
        "Each point: a tenth of the records, by confidence; bars: 95 % intervals; dashed: perfect. "
        "Mean distance from it (expected calibration error, Guo et al. 2017): "
        f"{share(judged.calibration_error)}."
    )
    yield figure_html(lambda size: draw_calibration(bins, size), caption, _SQUARE, "small")
    rows = [
        (
            b.share.name,
            f"{b.share.records:,}",
            share(b.confidence),
            share(b.share.mean),
            f"[{share(b.share.low)}, {share(b.share.high)}]",
            bar(b.share.mean),
        )
        for b in bins
    ]
    table = Table(
        ("confidence", "records", "mean", "right", "95 % interval", ""), rows, frozenset({"confidence", ""})
    )
    yield table_html("Accuracy by confidence", table)


def _canary(slices: Mapping[str, Any]) -> Table:
    rows = [
        (
            name,
            f"{found['compared']:,}",
            share(found["share"]),
            f"[{share(found['low'])}, {share(found['high'])}]",
            f"{found['rejected']:,}",
        )
        for name, found in slices.items()
        if found["compared"]
    ]
    heads = ("predicted from", "compared", "same label", "95 % interval", "only it rejected")
    return Table(heads, rows, frozenset({"predicted from"}))


def _drift(found: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>Are these records like those of the tune split?</h2>"
    looks = f"{number(found['tests'], 'look')} at {number(found['records'], 'record')}"
    said = f"Warning: {found['warning']}." if found["warning"] else f"No difference was found in {looks}."
    yield f"<p>{escape(said)}</p>"
    rows = [(name, f"{index:.3f}", bar(min(1.0, index))) for name, index in found["psi"].items()]
    rows.sort(key=lambda row: -float(row[1]))
    yield table_html(
        "How much they differ: population stability index; it does not say how certain that is",
        Table(("watched", "index", ""), rows, frozenset({"watched", ""})),
    )


def _abstained(run: Run) -> Table:
    whole = run.ledger.modalities
    rows = [
        (name, f"{n:,}", percent(n / max(1, whole[name])), bar(n / max(1, whole[name]), "orange"))
        for name, n in run.rows.abstained.most_common()
    ]
    rows.append(
        (
            "all",
            f"{run.ledger.abstained:,}",
            percent(run.ledger.abstained / max(1, run.ledger.predicted)),
            Markup(""),
        )
    )
    return Table(("predicted from", "rows", "of these", ""), rows, frozenset({"predicted from", ""}))
