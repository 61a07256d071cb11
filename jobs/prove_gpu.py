"""Prove that the variants of a bundle run on this machine's GPU, and decide there as fp32 does on the CPU.

    python jobs/prove_gpu.py --bundle bundles/stamps --input data/tuxpaint

For each provider and variant: it loads on that provider and no other, reproduces its golden outputs, passes
the gate of docs/variants.md on the held-out records with every subset of their modalities, and is timed. Exit
code 1 if one of them does not. A table, then one JSON line; add that line to docs/log.md. Without a GPU,
`--provider cpu` takes the same way on the CPU.
"""

import json
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from mmray.batching import batches, pack
from mmray.bundle import FP32, Bundle
from mmray.engine import Engine, Provider, best_provider
from mmray.errors import MmrayError, UsageError
from mmray.loading import open_engine
from mmray.optimize.gate import Thresholds, compare
from mmray.optimize.outputs import LabelledTensors, Outputs, labelled_tensors, run_outputs
from mmray.predictor import output_difference

_RUNS = 20


@dataclass(frozen=True)
class Proof:
    """What one variant did on one provider."""

    provider: str
    variant: str
    fault: str = ""  # why it is not proved
    load_s: float = 0.0
    golden_difference: float = 0.0
    agreement: float = 0.0
    ms_per_record: float = 0.0


def main(
    bundle: Annotated[str, typer.Option(help="Bundle directory.")] = "bundles/stamps",
    input: Annotated[list[str], typer.Option(help="Shards with held-out records.")] = ["data/tuxpaint"],  # noqa: B006  (never altered)
    provider: Annotated[list[str], typer.Option(help="Where to run.")] = ["cuda", "tensorrt"],  # noqa: B006  (never altered)
    rows: Annotated[int, typer.Option(help="Held-out records at most.")] = 1000,
    batch_rows: Annotated[int, typer.Option(help="Records of one inference.")] = 32,
) -> None:
    """Load, compare and time every variant that passed its gate on every provider."""
    try:
        if {"cuda", "tensorrt"} & set(provider) and best_provider() != "cuda":
            raise UsageError(
                "no NVIDIA GPU here that ONNX Runtime can use: `mmray doctor` says what is missing"
            )
        opened = Bundle.open(bundle)
        records = labelled_tensors(input, opened, rows=rows, without="train")
        parent = run_outputs(_open(opened, FP32, "cpu", batch_rows), records, batch_rows=batch_rows)
    except MmrayError as e:
        print(f"error: {e}")
        raise typer.Exit(e.exit_code) from e
    proofs = [
        prove(opened, variant, name, records, parent, batch_rows)  # type: ignore[arg-type]  # typer takes text
        for name in provider
        for variant in opened.passing()
        if opened.manifest.variants[variant].provider in ("any", name)
    ]
    show(proofs)
    print(
        json.dumps({"bundle": opened.digest, "records": len(records), "proofs": [asdict(p) for p in proofs]})
    )
    if any(proof.fault for proof in proofs):
        raise typer.Exit(1)


def prove(
    bundle: Bundle,
    variant: str,
    provider: Provider,
    records: LabelledTensors,
    parent: Outputs,
    batch_rows: int,
) -> Proof:
    """Load a variant, compare its golden outputs and its decisions, and time it."""
    try:
        start = perf_counter()
        engine = _open(bundle, variant, provider, batch_rows)
        inputs, expected = bundle.golden(variant)
        found = engine(inputs)[bundle.decisive]
        load_s = perf_counter() - start
        verdict = compare(parent, run_outputs(engine, records, batch_rows=batch_rows), Thresholds())
        ms = _ms_per_record(engine, records, batch_rows)
    except Exception as e:  # ONNX Runtime's own exception types share no base; the table has the reason
        return Proof(provider, variant, f"{type(e).__name__}: {e}")
    difference = output_difference(found, expected[bundle.decisive])
    allowed = bundle.manifest.variants[variant].golden_tolerance
    fault = verdict.reason or ("" if difference <= allowed else f"golden outputs are off by {difference:.2g}")
    return Proof(provider, variant, fault, load_s, difference, verdict.overall.agreement, ms)


def show(proofs: list[Proof]) -> None:
    """Print a table."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("provider", "variant", "load s", "golden off by", "agrees", "ms a record", "proved"):
        table.add_column(column, justify="left" if column in ("provider", "variant", "proved") else "right")
    for proof in proofs:
        figures = (proof.load_s, proof.golden_difference, proof.agreement, proof.ms_per_record)
        formats = ("{:.1f}", "{:.1e}", "{:.3f}", "{:.2f}")
        cells = [text.format(figure) for text, figure in zip(formats, figures, strict=True)]
        table.add_row(proof.provider, proof.variant, *cells, proof.fault or "yes")
    Console().print(table)


def _open(bundle: Bundle, variant: str, provider: Provider, batch_rows: int) -> Engine:
    return open_engine(bundle, variant, provider=provider, threads=1, batch_rows=batch_rows)


def _ms_per_record(engine: Engine, records: LabelledTensors, batch_rows: int) -> float:
    """Of the first batch, the best of some runs."""
    rows = next(batches(records.tensors, batch_rows))
    feeds = pack(records.tensors.take(rows), records.spec, for_device=engine.needs_rows)
    best = float("inf")
    for _ in range(_RUNS):
        start = perf_counter()
        engine(feeds)
        best = min(best, perf_counter() - start)
    return best / len(rows) * 1e3


if __name__ == "__main__":
    typer.run(main)
