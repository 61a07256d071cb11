"""Records in, predictions out: the one path that the batch job, the server and a single call share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmray.align import AlignSpec
from mmray.batching import Feeds, batches, pack
from mmray.bundle import Bundle
from mmray.engine import Provider
from mmray.errors import EngineError
from mmray.loading import open_engine
from mmray.preprocess import TENSOR_OF, OnDamaged, Preprocessor
from mmray.preprocess.spec import Limits
from mmray.race import choose_variant
from mmray.schema import Modality, OutputColumns, error, outcomes, table


def open_preprocessor(
    bundle: Bundle,
    *,
    limits: Limits | None = None,
    modalities: Collection[Modality] | None = None,
    on_damaged: OnDamaged = "reject",
    align: AlignSpec | None = None,
) -> Preprocessor:
    """The preprocessing that a bundle's model was trained with."""
    return Preprocessor(
        bundle.spec,
        bundle.tokenizer,
        limits=limits,
        modalities=modalities,
        on_damaged=on_damaged,
        align=align,
    )


class Predictor:
    """A bundle's model, ready: TENSORS in, OUTCOMES out.

    Args:
        bundle: an opened bundle.
        variant: which compiled form; "auto" takes the one that this machine runs fastest.
        provider: where to run.
        threads: threads of one inference.
        batch_rows: records of one inference.
        shared: whether other processes of this machine load the same graph; on the CPU they then share its
            weights.
        columns: which optional columns to give; None gives the scores of every class, or the features where
            the model has no labels.

    Raises:
        EngineError: the graph does not load, or does not give the bundle's golden outputs here.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        variant: str = "auto",
        provider: Provider = "auto",
        threads: int = 1,
        batch_rows: int = 32,
        shared: bool = False,
        columns: OutputColumns | None = None,
    ) -> None:
        self.variant = choose_variant(bundle, variant, provider=provider, threads=threads)
        self.columns = columns or _default_columns(bundle)
        self.schema = outcomes(self.columns)
        self._bundle = bundle
        self._labels = np.array(bundle.labels, dtype=object)
        # What a prediction is read from: it must be finite, and like the golden one.
        self._decisive = bundle.decisive
        self._batch_rows = batch_rows
        self._engine = open_engine(
            bundle, self.variant, provider=provider, threads=threads, batch_rows=batch_rows, shared=shared
        )
        #: Seconds spent in "model"; whoever reports them may clear it.
        self.seconds: Counter[str] = Counter()
        #: Largest difference from the bundle's golden outputs on this machine.
        self.golden_difference = self._check_golden()

    def __call__(self, tensors: pa.Table) -> pa.Table:
        """Table of TENSORS → table of OUTCOMES, same rows in the same order."""
        start = perf_counter()
        rows = tensors.num_rows
        errors: list[dict[str, str] | None] = tensors["error"].to_pylist()
        scores = np.zeros((rows, len(self._labels)), np.float32)
        features = np.zeros((rows, self.columns.features), np.float32)
        for batch in batches(tensors, self._batch_rows):
            for good, outputs in self._infer(tensors, batch, errors):
                if self.columns.labelled:
                    scores[good] = outputs["scores"]
                if self.columns.features:
                    features[good] = outputs["features"]
        result = self._to_outcomes(tensors, errors, scores, features)
        self.seconds["model"] += perf_counter() - start  # type: ignore[assignment]  # floats, too
        return result

    def _infer(
        self, tensors: pa.Table, rows: npt.NDArray[np.int64], errors: list[dict[str, str] | None]
    ) -> Iterable[tuple[npt.NDArray[np.int64], Feeds]]:
        """Outputs of the rows that the model could answer; the others get an error.

        A batch that fails is halved until the record that makes it fail is alone.
        """
        try:
            outputs = self._engine(
                pack(tensors.take(rows), self._bundle.spec, at_least_one=self._engine.needs_rows)
            )
        except Exception as e:  # ONNX Runtime's own exception types share no base; the record is named below
            if len(rows) == 1:
                errors[rows[0]] = error("infer", "model-error", f"{type(e).__name__}: {e}")
                return
            half = len(rows) // 2
            yield from self._infer(tensors, rows[:half], errors)
            yield from self._infer(tensors, rows[half:], errors)
            return
        finite = np.isfinite(outputs[self._decisive]).all(axis=1)
        for row in rows[~finite]:
            errors[row] = error("infer", "not-finite", f"the model gave {self._decisive} that are not finite")
        yield rows[finite], {name: array[finite] for name, array in outputs.items()}

    def _to_outcomes(
        self,
        tensors: pa.Table,
        errors: list[dict[str, str] | None],
        scores: npt.NDArray[np.float32],
        features: npt.NDArray[np.float32],
    ) -> pa.Table:
        columns: dict[str, Any] = {
            name: tensors[name] for name in ("shard", "row", "key", "end", "offset", "length", "damaged")
        }
        columns |= {
            "modalities": _modalities(tensors),
            "variant": [self.variant] * len(errors),
            "bundle": [self._bundle.digest] * len(errors),
            "alignment_error_ms": tensors["alignment_error_ms"],
            "error": errors,
        }
        columns |= _carried(tensors["meta"], self.columns.carry)
        if self.columns.labelled:
            best = scores.argmax(axis=1)
            failed = np.array([e is not None for e in errors], np.bool_)
            columns["label"] = pa.array(self._labels[best], pa.string(), mask=failed)
            columns["score"] = pa.array(scores[np.arange(len(best)), best], mask=failed)
        if self.columns.classes:
            columns["scores"] = pa.FixedSizeListArray.from_arrays(scores.reshape(-1), scores.shape[1])
        if self.columns.features:
            half = features.astype(np.float16).reshape(-1)
            columns["features"] = pa.FixedSizeListArray.from_arrays(half, features.shape[1])
        return table(columns, self.schema)

    def _check_golden(self) -> float:
        inputs, expected = self._bundle.golden(self.variant)
        allowed = self._bundle.manifest.variants[self.variant].golden_tolerance
        try:
            difference = output_difference(self._engine(inputs)[self._decisive], expected[self._decisive])
        except Exception as e:  # ONNX Runtime's own exception types share no base
            raise EngineError(
                f"{self._bundle.path}: variant {self.variant} does not run on its golden inputs on "
                f"{self._engine.provider}: {e}"
            ) from e
        if not difference <= allowed:  # also true for NaN
            raise EngineError(
                f"{self._bundle.path}: variant {self.variant} is off its golden {self._decisive} by "
                f"{difference:.2g} on {self._engine.provider}; it cannot be trusted on this machine"
            )
        return difference


def output_difference(found: npt.NDArray[np.generic], expected: npt.NDArray[np.generic]) -> float:
    """Largest difference of two outputs, as a share of the largest expected value where that is above 1."""
    scale = max(1.0, float(np.abs(expected).max()))
    return float(np.abs(np.subtract(found, expected)).max()) / scale


def _default_columns(bundle: Bundle) -> OutputColumns:
    if bundle.labels:
        return OutputColumns(classes=len(bundle.labels))
    return OutputColumns(classes=0, labelled=False, features=bundle.manifest.features)


def _modalities(tensors: pa.Table) -> list[list[str]]:
    """Names of the modalities that each row has."""
    valid = {m: pc.is_valid(tensors[column]).to_pylist() for m, column in TENSOR_OF.items()}
    return [[m for m in valid if valid[m][i]] for i in range(tensors.num_rows)]


def _carried(meta: pa.ChunkedArray, names: tuple[str, ...]) -> dict[str, list[str | None]]:
    """The named fields of each record's JSON member as text; null where it has none."""
    if not names:
        return {}
    fields = [_json_object(value) for value in meta.to_pylist()]
    return {f"meta_{name}": [_as_text(row.get(name)) for row in fields] for name in names}


def _json_object(data: bytes | None) -> dict[str, Any]:
    try:
        value = json.loads(data or b"{}")
    except (ValueError, RecursionError):  # metadata does not decide whether a record can be predicted
        return {}
    return value if isinstance(value, dict) else {}


def _as_text(value: object) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()  # JSON may hold half a surrogate pair
