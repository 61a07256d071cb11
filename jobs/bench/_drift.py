"""Parts of the study of drift: records run once, references drawn from them, watches over others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import thread_time
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mmray.bundle import Bundle
from mmray.drift import Reference, Seen, Sketcher, VariantReference, Watch, reference_of, values_of
from mmray.drift.reference import main_directions
from mmray.drift.values import Values
from mmray.drift.watch import ALPHA
from mmray.drift.window import Counts, bins_of
from mmray.evaluation import LabelledTensors
from mmray.predictor import Predictor

SHOWN, BLOCK = 500, 64  # records
KINDS: dict[str, Callable[[str], bool]] = {
    "all": bool,
    "without features": lambda name: not name.startswith("direction"),
    "confidence alone": lambda name: name == "confidence",
}
Rows: TypeAlias = npt.NDArray[np.intp]


@dataclass
class Split:
    """Values of one split's records."""

    seen: list[Seen]
    features: npt.NDArray[np.float32]  # [n, D]
    groups: npt.NDArray[np.str_]  # [n]


class Collector:
    """Keeps what the model's one stage sees."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    def see(self, seen: Seen | None) -> None:
        """As a watcher."""
        if seen:
            self.seen.append(seen)


class Study:
    """References and watches over one bundle's records."""

    def __init__(self, bundle: Bundle, tune: Split, test: Split) -> None:
        self.bundle, self.tune, self.test = bundle, tune, test
        self._random = np.random.default_rng(0)

    def values(self, split: Split, directions: npt.NDArray[np.float32]) -> Values:
        """Of all records of a split."""
        parts = [values_of(seen, self.bundle.spec, directions) for seen in split.seen]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def drawn(self) -> tuple[Rows, Rows, Rows]:
        """Of the tune split: records for bins, records for counts, and 500 others; by whole groups."""
        names, of = np.unique(self.tune.groups, return_inverse=True)
        order = np.argsort(self._random.permutation(len(names))[of], kind="stable")
        shown, rest = order[:SHOWN], order[SHOWN:]
        return rest[: len(rest) // 4], rest[len(rest) // 4 :], self._random.permutation(shown)

    def reference(self, layout: Rows, counted: Rows) -> tuple[VariantReference, Values, Values]:
        """A reference, and the values of both splits in its directions."""
        directions = main_directions(self.tune.features[layout])
        matrix = Reference(features=self.tune.features.shape[1], directions=directions, variants={}).matrix
        tune, test = self.values(self.tune, matrix), self.values(self.test, matrix)
        laid, own = ({name: column[rows] for name, column in tune.items()} for rows in (layout, counted))
        return reference_of(laid, own, len(counted), self.bundle.spec, self.bundle.labels), tune, test

    def choose(self, rows: int, size: int) -> Rows:
        """Drawn independently."""
        return self._random.integers(0, rows, size)


def table_of(reference: VariantReference, values: Values) -> list[Rows]:
    """For each sketch, the place of each record in the counts; -1 if it has none."""
    found = []
    for name, (sketch, bins) in bins_of(reference.sketches).items():
        column = values[name]
        places = np.where(np.isnan(column), -1, bins.start + sketch.places(np.nan_to_num(column)))
        found.append(places.astype(np.intp))
    return found


def counts_of(table: list[Rows], rows: Rows, size: int) -> Counts:
    """Counts of some records."""
    places = np.concatenate([column[rows] for column in table])
    return np.bincount(places[places >= 0], minlength=size)


def watched(reference: VariantReference, values: Values, rows: Rows, alpha: float = ALPHA) -> Watch:
    """A watch that has seen some records, a block after the other."""
    table = table_of(reference, values)
    size = sum(len(sketch.counts) for sketch in reference.sketches)
    watch = Watch(reference, alpha)
    for start in range(0, len(rows), BLOCK):
        watch.add(counts_of(table, rows[start : start + BLOCK], size))
        if watch.alarm:
            return watch
    watch.finish()
    return watch


def only(reference: VariantReference, kind: str) -> VariantReference:
    """A reference with some of its sketches; the first one counts the records."""
    first, *others = reference.sketches
    kept = [sketch for sketch in others if KINDS[kind](sketch.name)]
    return reference.model_copy(update={"sketches": (first, *kept)})


def run_split(predict: Predictor, records: LabelledTensors) -> Split:
    """Run a split's records."""
    predict.watcher = collector = Collector()
    for start in range(0, len(records), BLOCK):
        predict(records.tensors.slice(start, BLOCK))
    groups = [records.groups[i * BLOCK : (i + 1) * BLOCK][seen.rows] for i, seen in enumerate(collector.seen)]
    features = np.concatenate([seen.outputs["features"] for seen in collector.seen]).astype(np.float32)
    return Split(collector.seen, features, np.concatenate(groups))


def cost(
    predict: Predictor, records: LabelledTensors, reference: Reference, variant: str
) -> dict[str, float]:
    """CPU time of a block's inference, of sketching it, and of its average share of tests.

    Args:
        predict: runs the inference.
        records: a block of them is run.
        reference: whose sketches are counted.
        variant: of it.
    """
    tensors, sketcher = (
        records.tensors.slice(0, BLOCK).combine_chunks(),
        Sketcher(reference, variant, records.spec),
    )
    predict.watcher = collector = Collector()
    inferring, sketching = [], []
    for _ in range(5):
        start = thread_time()
        predict(tensors)
        inferring.append(thread_time() - start)
        for _ in range(10):
            start = thread_time()
            sketcher.see(collector.seen[-1])
            sketching.append(thread_time() - start)
    counts = sketcher.take()
    assert counts is not None
    watch, looks = (
        Watch(reference.variants[variant], alpha=1e-250),
        512,
    )  # it never stops testing
    start = thread_time()
    for _ in range(looks):
        watch.add(counts // len(sketching))
    test_s = (thread_time() - start) / looks
    return {
        "block_ms": round(1e3 * min(inferring), 2),
        "sketching_ms": round(1e3 * min(sketching), 3),
        "tests_ms": round(1e3 * test_s, 3),
        "share": round((min(sketching) + test_s) / min(inferring), 5),
        "message_bytes": counts.nbytes,
        "reference_bytes": len(reference.to_json()),
    }
