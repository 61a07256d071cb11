"""The gain of packed modalities, and that they change no decision: each subset, packed and padded.

    OMP_NUM_THREADS=1 python jobs/bench packed --input data/tuxpaint --bundle bundles/stamps   # a minute

The same records, with only the modalities of a subset; *padded*, every record has a row in every modality, a
blank one (of one patch, of one token) if it has none. Expected on the stamps: the same decisions; text alone
at least three times as fast packed as padded, and as all modalities. A table, then one JSON line. CPU times
of this process, on one thread, so that other load affects them little; compare ratios of one run.
"""

import json
from collections.abc import Iterator
from time import process_time
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import typer
from rich.console import Console
from rich.table import Table

from mmray.batching import Feeds, batches, pack
from mmray.bundle import Bundle
from mmray.engine import Engine
from mmray.errors import InputError, MmrayError
from mmray.graphs import keep, mixed_rows
from mmray.predictor import open_preprocessor
from mmray.preprocess.spec import PreprocessSpec
from mmray.schema import TENSOR_OF, set_name, subsets
from mmray.sources import ReadOptions, list_shards, read

_RUNS = 3


def main(
    input: Annotated[list[str], typer.Option(help="Shards.")] = ["data/tuxpaint"],  # noqa: B006  (never altered)
    bundle: Annotated[str, typer.Option(help="Bundle directory.")] = "bundles/stamps",
    rows: Annotated[int, typer.Option(help="Records that have every modality.")] = 64,
    batch_rows: Annotated[int, typer.Option(help="Records of one inference.")] = 32,
) -> None:
    """Run each subset both ways, in turns; the best time of each counts."""
    try:
        opened = Bundle.open(bundle)
        tensors = whole_records(input, opened, rows)
    except MmrayError as e:
        print(f"error: {e}")
        raise typer.Exit(e.exit_code) from e
    engine, spec = Engine(opened.graph("fp32"), provider="cpu"), opened.spec
    cases = {
        set_name(spec.modalities, kind): keep(tensors, spec, [kind] * len(tensors))
        for kind in subsets(len(spec.modalities))
    }
    cases["mixed"] = mixed_rows(tensors, spec)
    results = {name: compare(engine, case, spec, batch_rows) for name, case in cases.items()}
    everything = results["+".join(spec.modalities)]["packed_ms"]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("modalities", "packed ms", "padded ms", "padded/packed", "all/packed", "same"):
        table.add_column(name, justify="left" if name == "modalities" else "right")
    for name, found in results.items():
        found["all_to_packed"] = everything / found["packed_ms"]
        found["padded_to_packed"] = found["padded_ms"] / found["packed_ms"]
        ratios = [f"{found[ratio]:.2f}" for ratio in ("padded_to_packed", "all_to_packed")]
        times = [f"{found[way]:.2f}" for way in ("packed_ms", "padded_ms")]
        table.add_row(name, *times, *ratios, f"{found['same']:.0f} of {len(tensors)}")
    Console().print(table)
    rounded = {
        name: {key: round(value, 4) for key, value in found.items()} for name, found in results.items()
    }
    print(json.dumps({"records": len(tensors), "batch_rows": batch_rows, "modalities": rounded}))


def whole_records(inputs: list[str], bundle: Bundle, rows: int) -> pa.Table:
    """TENSORS of the first records that have every modality.

    Raises:
        InputError: there are none.
    """
    preprocess = open_preprocessor(bundle)
    found: list[pa.Table] = []
    for block in (block for shard in list_shards(inputs) for block in read(shard, ReadOptions())):
        tensors = preprocess(block)
        whole = pc.is_null(tensors["error"])
        for modality in bundle.spec.modalities:
            whole = pc.and_(whole, pc.is_valid(tensors[TENSOR_OF[modality]]))
        found.append(tensors.filter(whole))
        if sum(part.num_rows for part in found) >= rows:
            break
    joined = pa.concat_tables(found).slice(0, rows) if found else None
    if not joined:
        raise InputError(f"{inputs[0]}: no record has all of {', '.join(bundle.spec.modalities)}")
    return joined


def compare(engine: Engine, tensors: pa.Table, spec: PreprocessSpec, batch_rows: int) -> dict[str, float]:
    """Milliseconds a record both ways, and how many records get the same label."""
    packed = [pack(tensors.take(rows), spec) for rows in batches(tensors, batch_rows)]
    padded = [pad(tensors.take(rows), spec) for rows in batches(tensors, batch_rows)]
    seconds: dict[str, list[float]] = {"packed": [], "padded": []}
    scores = {}
    for _ in range(_RUNS):
        for way, feeds in (("packed", packed), ("padded", padded)):
            start = process_time()
            scores[way] = np.concatenate([engine(batch)["scores"] for batch in feeds])
            seconds[way].append(process_time() - start)
    same = scores["packed"].argmax(axis=1) == scores["padded"].argmax(axis=1)
    times = {f"{way}_ms": min(values) / len(tensors) * 1e3 for way, values in seconds.items()}
    return {
        **times,
        "same": int(same.sum()),
        "difference": float(np.abs(np.subtract(*scores.values())).max()),
    }


def pad(tensors: pa.Table, spec: PreprocessSpec) -> Feeds:
    """One batch in which every record has a row in every modality; `present` shows which are real."""
    blank = dict(_blanks(spec))
    filled = tensors
    for name, value in blank.items():
        column = tensors[name].combine_chunks()
        values = pa.array([value if row is None else row for row in column.to_pylist()], column.type)
        filled = filled.set_column(filled.column_names.index(name), name, values)
    return {**pack(filled, spec), "present": pack(tensors, spec)["present"]}


def _blanks(spec: PreprocessSpec) -> Iterator[tuple[str, object]]:
    """The smallest value of each column of TENSORS that the model takes."""
    if image := spec.image:
        yield "pixels", bytes(image.height * image.width * 3)
    if spec.text:
        yield "input_ids", [0]
    if audio := spec.audio:
        yield "log_mel", bytes(2 * audio.patch_frames * audio.mel_bins)


if __name__ == "__main__":
    typer.run(main)
