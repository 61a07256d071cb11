"""Checks on batches that a graph follows the packed layout: a graph may run and still mix rows.

A record must get the same outputs alone and in a batch, for any padding of its text. A modality that no
record has may have no row at all, or a blank one. A row whose flag is false must be ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmray.batching import Feeds, pack
from mmray.engine import Engine
from mmray.errors import ModelError
from mmray.graphs import mixed_rows
from mmray.importing.load import one_line
from mmray.preprocess.spec import PreprocessSpec
from mmray.schema import set_name, subsets

#: Largest difference between two equivalent batches, as a share of the output's largest value. Rounding in
#: half precision depends on the batch size; mixed-up rows differ far more.
TOLERANCE = 1e-3


def check_packed(
    graph: Path, where: str, spec: PreprocessSpec, sample: pa.Table, cases: Mapping[str, Feeds]
) -> None:
    """Refuse a graph whose outputs for a record depend on anything other than the record.

    Args:
        graph: ONNX file with the inputs of `mmray.batching.pack`.
        where: its name in errors.
        spec: what it takes.
        sample: rows of TENSORS without errors.
        cases: `mmray.graphs.cases.batch_cases` of the sample.

    Raises:
        ModelError: names the graph, the batch and what was found.
    """
    run = _Runner(graph, where)
    outputs = {case: run(case, feeds) for case, feeds in cases.items()}
    alone = mixed_rows(sample, spec)
    for i in range(len(alone)):
        found = run(f"record {i} alone", pack(alone.slice(i, 1), spec))
        among = {name: values[i : i + 1] for name, values in outputs["mixed"].items()}
        run.compare(found, among, f"record {i} alone and in a batch of {len(alone)}", _MIXED)
    everything = set_name(spec.modalities, (True,) * len(spec.modalities))
    for subset in subsets(len(spec.modalities)):
        name = set_name(spec.modalities, subset)
        padded = {output: values[:-1] for output, values in outputs[f"{name}, padded"].items()}  # no dummy
        few = {output: values[: len(padded[output])] for output, values in outputs[name].items()}
        run.compare(few, padded, f"{name} without padding and with it", _FLAGS)
        ignored = dict(cases[everything], present=cases[name]["present"])
        found = run(f"{name}, without the other modalities", ignored)
        run.compare(found, outputs[name], f"{name} without rows of the rest and with their flags off", _FLAGS)


_MIXED = "use the row indices to find the record of each row, and mask padding"
_FLAGS = "only `present` may decide which modalities are used"


class _Runner:
    """Runs and compares; every failure becomes an error about this graph."""

    def __init__(self, graph: Path, where: str) -> None:
        self._where = where
        self._engine = Engine(graph, provider="cpu")

    def __call__(self, case: str, feeds: Feeds) -> Feeds:
        try:
            outputs = self._engine(feeds)
        except Exception as e:  # ONNX Runtime's own exception types share no base
            shapes = ", ".join(f"{name} {array.shape}" for name, array in feeds.items())
            raise ModelError(
                f"{self._where}: does not run on the batch {case!r} ({shapes}): {one_line(e)}"
            ) from e
        for name, values in outputs.items():
            if values.ndim != 2 or len(values) != len(feeds["present"]):
                raise ModelError(
                    f"{self._where}: output {name!r} is {values.shape} for {len(feeds['present'])} records"
                )
            if not np.isfinite(values).all():
                raise ModelError(f"{self._where}: output {name!r} is not finite on the batch {case!r}")
        return outputs

    def compare(self, found: Feeds, expected: Feeds, what: str, remedy: str) -> None:
        for name, values in expected.items():
            scale = max(1.0, float(np.abs(values).max()))
            difference = float(np.abs(np.subtract(found[name], values)).max()) / scale
            if difference > TOLERANCE:
                raise ModelError(
                    f"{self._where}: output {name!r} differs by {difference:.2g} for {what}; {remedy}"
                )
