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

from mmray.batching import Feeds, batches, pack
from mmray.bundle import Bundle
from mmray.engine import Engine, Provider
from mmray.errors import EngineError
from mmray.preprocess import TENSOR_OF, OnDamaged, Preprocessor
from mmray.preprocess.spec import Limits
from mmray.schema import Modality, OutputColumns, error, outcomes, table

_GOLDEN_TOLERANCE = (
    1e-3  # of scores; kernels of other CPUs add in another order, a wrong one is off by far more
)


def open_preprocessor(
    bundle: Bundle,
    *,
    limits: Limits | None = None,
    modalities: Collection[Modality] | None = None,
    on_damaged: OnDamaged = "reject",
) -> Preprocessor:
    """The preprocessing that a bundle's model was trained with."""
    return Preprocessor(
        bundle.spec, bundle.tokenizer, limits=limits, modalities=modalities, on_damaged=on_damaged
    )


class Predictor:
    """A bundle's model, ready: TENSORS in, OUTCOMES out.

    Args:
        bundle: an opened bundle.
        variant: which compiled form; "auto" takes the one that this provider runs best.
        provider: where to run.
        threads: threads of one inference.
        batch_rows: records of one inference.
        columns: which optional columns to give; None gives the scores of every class.

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
        columns: OutputColumns | None = None,
    ) -> None:
        self.variant = bundle.choose(variant)
        self.columns = columns or OutputColumns(classes=len(bundle.labels))
        self.schema = outcomes(self.columns)
        self._bundle = bundle
        self._labels = np.array(bundle.labels, dtype=object)
        self._batch_rows = batch_rows
        self._engine = Engine(bundle.graph(self.variant), provider=provider, threads=threads)
        #: Seconds spent in "model"; whoever reports them may clear it.
        self.seconds: Counter[str] = Counter()
        #: Largest difference from the bundle's golden scores on this machine.
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
        finite = np.isfinite(outputs["scores"]).all(axis=1)
        for row in rows[~finite]:
            errors[row] = error("infer", "not-finite", "the model gave scores that are not finite")
        yield rows[finite], {name: array[finite] for name, array in outputs.items()}

    def _to_outcomes(
        self,
        tensors: pa.Table,
        errors: list[dict[str, str] | None],
        scores: npt.NDArray[np.float32],
        features: npt.NDArray[np.float32],
    ) -> pa.Table:
        best = scores.argmax(axis=1)
        failed = np.array([e is not None for e in errors], np.bool_)
        columns: dict[str, Any] = {
            name: tensors[name] for name in ("shard", "row", "key", "end", "offset", "length", "damaged")
        }
        columns |= {
            "label": pa.array(self._labels[best], pa.string(), mask=failed),
            "score": pa.array(scores[np.arange(len(best)), best], mask=failed),
            "modalities": _modalities(tensors),
            "variant": [self.variant] * len(errors),
            "bundle": [self._bundle.digest] * len(errors),
            "error": errors,
        }
        columns |= _carried(tensors["meta"], self.columns.carry)
        if self.columns.classes:
            columns["scores"] = pa.FixedSizeListArray.from_arrays(scores.reshape(-1), scores.shape[1])
        if self.columns.features:
            half = features.astype(np.float16).reshape(-1)
            columns["features"] = pa.FixedSizeListArray.from_arrays(half, features.shape[1])
        return table(columns, self.schema)

    def _check_golden(self) -> float:
        inputs, expected = self._bundle.golden()
        try:
            scores = self._engine(inputs)["scores"]
            difference = float(np.abs(np.subtract(scores, expected["scores"])).max())
        except Exception as e:  # ONNX Runtime's own exception types share no base
            raise EngineError(
                f"{self._bundle.path}: variant {self.variant} does not run on its golden inputs on "
                f"{self._engine.provider}: {e}"
            ) from e
        if not difference <= _GOLDEN_TOLERANCE:  # also true for NaN
            raise EngineError(
                f"{self._bundle.path}: variant {self.variant} is off its golden scores by {difference:.2g} "
                f"on {self._engine.provider}; it cannot be trusted on this machine"
            )
        return difference


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
