"""A bundle's model as a function of batches."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmray.api.batches import take_apart
from mmray.bundle import Bundle
from mmray.confidence import Abstain
from mmray.config import with_assignments
from mmray.engine import Provider
from mmray.predictor import Predictor as Model
from mmray.predictor import open_preprocessor
from mmray.preprocess import OnDamaged
from mmray.preprocess.spec import Limits

# Columns that only a run needs: the position of a record, and the bundle of its part.
_OF_RUNS = ("shard", "row", "key", "end", "offset", "length", "variant", "bundle")


def open_bundle(path: str | Path) -> Bundle:
    """A bundle from a directory, or from a URL, whose files are downloaded once.

    Raises:
        BundleError: it is missing or incomplete.
    """
    return Bundle.open(path)


class Predictor:
    """Records in, predictions out; the same answers as from the batch job and the server.

        predict = mmray.Predictor("bundles/stamps")
        predict([{"image": Path("cat.jpg"), "text": "a cat"}])[0]["label"]

    Also a class for Ray Data:

        mmray.read("data/shards").map_batches(
            mmray.Predictor, fn_constructor_kwargs={"bundle": "bundles/stamps"}, batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=4))

    Args:
        bundle: its path or URL, or an opened one.
        variant: which compiled form; "auto" takes the one that this machine runs fastest.
        provider: where to run: "auto", "cpu", "cuda", "tensorrt", "openvino".
        threads: threads of one inference.
        abstain: share of the labels that may be wrong; records with a lower score get no label.
            "auto": the bundle's default; "never".
        features: also give the fused features of each record, as a run with `features: true` does.
        on_damaged: "reject": a record with a modality that cannot be decoded has an error; "mask": it is
            predicted from the rest.
        limits: memory limits of one record, by name, as `limits` of a run's config.

    Raises:
        BundleError: the bundle is missing or incomplete, or a file was altered.
        EngineError: the model does not load, or does not give the bundle's golden outputs on this machine.
        ConfigError: a limit is wrong, or the bundle does not support the risk.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle,
        *,
        variant: str = "auto",
        provider: Provider = "auto",
        threads: int = 1,
        abstain: Abstain = "auto",
        features: bool = False,
        on_damaged: OnDamaged = "reject",
        limits: Mapping[str, Any] | None = None,
    ) -> None:
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        bounds = with_assignments(Limits, dict(limits or {}), (), "limits")
        self._preprocess = open_preprocessor(opened, on_damaged=on_damaged, limits=bounds)
        self._model = Model(
            opened, variant=variant, provider=provider, threads=threads, abstain=abstain, features=features
        )
        self.bundle = opened
        #: The variant in use.
        self.variant = self._model.variant
        #: Names of the classes, in the order of `scores`.
        self.labels = tuple(opened.labels)

    def __call__(self, batch: Any) -> Any:  # noqa: ANN401  (it returns the form that it gets)
        """Predict some records.

        Args:
            batch: a pyarrow.Table, a pandas.DataFrame, a list of dicts, or a dict of arrays, with a column
                for each existing modality. `image`: bytes of a file, a Path, a PIL image, or uint8
                [H, W, 3]; `text`: str; `audio`: bytes of a file, a Path, or (samples [N] or [N, channels],
                rate in Hz); None where a record lacks it.

        Returns:
            The same form, a row for each record in the same order: the other columns of the batch (one that
            is named like a column of predictions as `meta_NAME`), and

            - `label` str and `score` float32; both None where there is an error
            - `scores` float32 [C], of all classes in the order of `labels`
            - `modalities`, what was predicted from; `damaged`, what could not be decoded
            - `error`: None, or a dict of `stage`, `type` and `reason`
            - for a cascade `stage` and `confidence`; if labels may be withheld `abstained`
            - `features` float16 [D] if asked for, zero after an error; a model without labels gives them
              instead of label and scores

        Raises:
            InputError: the batch is of another form.
            EngineError: the engine or its device failed, which is not a record's fault.
        """
        records, others, back = take_apart(batch)
        preprocess = self._preprocess
        found = self._model(preprocess(records, self._model.later), preprocess.complete)
        predictions = {name: found[name] for name in found.column_names if name not in _OF_RUNS}
        kept = {f"meta_{n}" if n in predictions else n: _column(values) for n, values in others.items()}
        return back(pa.table({**kept, **predictions}))


def _column(values: Any) -> pa.Array | pa.ChunkedArray:  # noqa: ANN401
    """Values for Arrow; arrays of more than one dimension become lists, NaN of pandas becomes null."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if isinstance(values, np.ndarray) and values.ndim > 1:
        values = list(values)
    return pa.array(values, from_pandas=True)
