"""Output of the commands."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from mmray.bundle import Bundle
from mmray.cli import json_lines
from mmray.page.table import number
from mmray.pipeline.audit import Audit
from mmray.pipeline.ledger import Ledger
from mmray.pipeline.plan import Plan
from mmray.pipeline.survey import Survey
from mmray.unread import remedy_of

console = Console(highlight=False)
_SHOWN = 20  # shard faults


def print_error(message: str, trace: str = "") -> None:
    """One line on standard error, after a traceback if there is one."""
    if json_lines.is_on():
        json_lines.say(message, logging.ERROR, **({"trace": trace} if trace else {}))
        return
    sys.stderr.write(trace)
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error:[/] {escape(message)}")


def print_line(message: str) -> None:
    """One plain line; a JSON object with `--log-format json`."""
    if json_lines.is_on():
        json_lines.say(message)
        return
    console.print(escape(message), soft_wrap=True)


def print_json(value: object) -> None:
    """Plain JSON, for pipes."""
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


def print_plan(preview: tuple[Plan, Ledger], *, as_json: bool) -> None:
    """What `mmray plan` shows."""
    plan, ledger = preview
    found = plan.survey
    done = ledger.rows
    missing = ledger.missing(found.shards)
    units = plan.units(missing)
    if as_json:
        print_json(
            {
                **{k: v for k, v in plan.to_json().items() if k != "shards"},
                "shards": len(found.shards),
                "shards_to_do": len(missing),
                "input_bytes": found.input_bytes,
                "expected_rows": found.expected_rows,
                "done_rows": done,
                "units": len(units),
                "formats": found.census.kinds,
                "census": found.census.sets,
                "unread": found.census.unread.to_json(),
                "unread_files": found.unread_files.to_json(),
                "balance": asdict(plan.advice) if plan.advice else None,
            }
        )
        return
    print_survey(found, done)
    print_field("cluster", describe_machines(plan))
    sets = ", ".join(f"{rows} {s}" for s, rows in found.census.sets.items())
    print_field("sample", f"{number(found.census.records, 'record')}: {sets}")
    _print_unread(found)
    print_field(
        "work",
        f"{number(len(units), 'unit')} over {number(len(missing), 'shard')}, parts of up to "
        f"{plan.part_rows:,} rows",
    )
    if plan.advice:
        print_field("balance", str(plan.advice))
    if done:
        whole = number(len(found.shards) - len(missing), "finished shard")
        print_field("resume", f"skips {number(done, 'row')}; {whole} not opened")


def print_audit(verdict: Audit, *, as_json: bool) -> None:
    """What `mmray audit` shows."""
    if as_json:
        print_json(verdict.to_json())
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("shard")
    for name in ("input", "predicted", "rejected", "faults"):
        table.add_column(name, justify="right")
    for shard in verdict.shards:
        total = "?" if shard.total is None else f"{shard.total:,}"
        table.add_row(
            escape(shard.shard), total, f"{shard.predicted:,}", f"{shard.rejected:,}", f"{shard.faults:,}"
        )
    table.add_section()
    table.add_row(
        "all",
        f"{verdict.total:,}",
        f"{verdict.predicted:,}",
        f"{verdict.rejected:,}",
        f"{len(verdict.faults):,}",
        style="bold",
    )
    console.print(table)
    for problem in verdict.problems:
        console.print(f"[red]✗[/] {escape(problem)}", soft_wrap=True)
    print_faults(verdict.faults)
    if verdict.ok:
        console.print("[green]✓[/] input = predicted + rejected, each (shard, row) once")


def print_faults(faults: Sequence[str]) -> None:
    """Damage in shards, where an unknown number of records is lost."""
    for fault in faults[:_SHOWN]:
        console.print(f"[bold red]shard fault:[/] {escape(fault)}", soft_wrap=True)
    if len(faults) > _SHOWN:
        print_line(f"and {len(faults) - _SHOWN} more: faults/ has all")


def print_bundle(bundle: Bundle, *, as_json: bool) -> None:
    """What `mmray bundle inspect` shows."""
    manifest, scorecard = bundle.manifest, bundle.scorecard
    if as_json:
        print_json({"digest": bundle.digest, "manifest": manifest.model_dump(), "scorecard": scorecard})
        return
    print_field("bundle", _describe_bundle(bundle))
    print_field("labels", ", ".join(manifest.labels) or "none: the model only gives features")
    for name, variant in manifest.variants.items():
        size = bundle.graph(name).stat().st_size
        print_field("variant", f"{name}: {variant.precision}, {size / 1e6:.1f} MB")
    records = bundle.golden_records()
    raw = (
        "tensors only, made by an older mmray" if records is None else number(records.num_rows, "raw record")
    )
    print_field("golden", raw)
    for source in manifest.sources:
        print_field("weights", f"{source.name} {source.version}, {source.licence}")
    if "cross_validation" in scorecard:
        console.print(scorecard_table(scorecard))


def scorecard_table(scorecard: Mapping[str, Any]) -> Table:
    """Quality by the modalities of records: cross-validation of train and tune, and test."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("modalities")
    for name in ("records", "accuracy", "balanced", "test"):
        table.add_column(name, justify="right")
    for name, score in scorecard["cross_validation"]["subsets"].items():
        test = scorecard.get("test", {}).get(name)
        cells = [f"{s['accuracy']:.3f} ± {s['standard_error']:.3f}" if s else "" for s in (score, test)]
        tested = f"{cells[1]} of {test['records']:,}" if test else ""
        table.add_row(name, f"{score['records']:,}", cells[0], f"{score['balanced_accuracy']:.3f}", tested)
    return table


def print_survey(found: Survey, done: int) -> None:
    """Inputs of a run."""
    shares = ", ".join(f"{m} {share:.0%}" for m, share in found.census.modalities.items())
    kinds = " and ".join(found.census.kinds)
    size = f"{number(len(found.shards), 'shard')} of {kinds}, {decimal(found.input_bytes)}"
    inputs = " ".join(found.config.input)
    print_field("input", f"{inputs}: {size}, about {number(found.expected_rows, 'record')} ({shares})")
    for note in found.notes:
        print_field("", note)
    print_field("bundle", f"{_describe_bundle(found.bundle)}")
    print_field("output", f"{found.config.output}" + (f" ({number(done, 'row')} done)" if done else ""))


def _print_unread(found: Survey) -> None:
    """Unused input, by remedy, a line for each kind."""
    groups: dict[str, list[str]] = {}
    for tally in (found.census.unread, found.unread_files):
        for kind, count in tally.most_common():
            said = f"{kind}: {count.number:,}, as {count.example}"
            groups.setdefault(remedy_of(kind) or "nothing is lost", []).append(said)
    name = "unread"
    for remedy, kinds in groups.items():
        print_field(name, f"{remedy}:")
        name = ""
        for said in kinds:
            print_field("", f"  {said}")


def _describe_bundle(bundle: Bundle) -> str:
    takes = " + ".join(bundle.spec.modalities)
    gives = (
        number(len(bundle.labels), "label") if bundle.labels else number(bundle.manifest.features, "feature")
    )
    return f"{bundle.manifest.name} {bundle.digest[:12]}: {takes} → {gives}"


def describe_machines(plan: Plan) -> str:
    """Resources of a run, as in "1 node, 2 CPUs, 0 GPUs: fused topology, 2 actors of fp32"."""
    machines = plan.machines
    where = (
        f"{number(machines.nodes, 'node')}, {number(machines.cpus, 'CPU')}, {number(machines.gpus, 'GPU')}"
    )
    return f"{where}: {plan.topology} topology, {number(plan.actors, 'actor')} of {plan.variant}"


def print_field(name: str, value: str) -> None:
    """A line of a list of names and values."""
    console.print(f"[bold]{name:<8}[/] {escape(value)}", soft_wrap=True)
