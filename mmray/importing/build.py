"""From labelled shards and frozen encoders to a bundle: encode, score, train, export, check parity, write."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from mmray.batching import Feeds
from mmray.bundle import FP32, Bundle, check_replaceable, write_bundle
from mmray.engine import Engine
from mmray.errors import InputError
from mmray.evaluation import SPLITS, Assigned, judge_selective, reference_from
from mmray.graphs import batch_cases, check_parity, export_graph, golden_records
from mmray.heads import (
    Encoded,
    Examples,
    TrainedHead,
    cross_validate,
    encode,
    head_outputs,
    score_subsets,
    train_head,
)
from mmray.importing.recipe import Recipe
from mmray.models.encoders import EncoderSet
from mmray.models.fused import FusedModel
from mmray.page.table import number
from mmray.sources import list_shards

_log = logging.getLogger(__name__)
_SAMPLE_ROWS = 16
_LATENCY_RUNS = 5

Say = Callable[[str], None]


def build_bundle(
    inputs: Sequence[str],
    output: Path,
    encoders: EncoderSet,
    *,
    recipe: Recipe | None = None,
    say: Say = _log.info,
) -> Bundle:
    """Build a bundle of one fp32 variant.

    The head is trained on the train split, calibrated on tune, and its accuracy is measured once on test.

    Args:
        inputs: shards, as `mmray.sources.list_shards` takes them.
        output: the bundle's directory; its name becomes the bundle's.
        encoders: turn modalities into features.
        recipe: the options.
        say: gets progress messages.

    Raises:
        ConfigError: an encoder is missing for one of the recipe's modalities.
        InputError: the shards have too few labelled records.
        BundleError: `output` exists and is not a bundle.
        EngineError: the exported graph is not equal to the model.
    """
    recipe = recipe or Recipe()
    encoders = encoders.only(recipe.modalities)
    check_replaceable(output)
    clock = _Clock(say)
    shards = list_shards(inputs)
    with tempfile.TemporaryDirectory() as temporary:
        tokenizer = _write_tokenizer(encoders, Path(temporary))
        encoded = encode(shards, encoders.spec, tokenizer, encoders.modules, sample_rows=_SAMPLE_ROWS)
        clock.say(f"encoded {number(len(encoded.examples), 'record')} of {number(len(shards), 'shard')}")
        examples = _usable(encoded.examples, recipe)
        train, tune, test = (examples.take(examples.splits == split) for split in SPLITS)
        seen = examples.take(np.isin(examples.splits, ("train", "tune")))
        validation = cross_validate(seen, recipe.folds, recipe.seed)
        clock.say(f"cross-validated {len(seen)} records in {recipe.folds} folds grouped by caption")
        trained = train_head(train, seed=recipe.seed)
        clock.say(f"trained the head on {len(train)} records; {len(tune)} are to tune, {len(test)} to test")
        model = FusedModel(encoders.modules, trained.head).eval()
        graph = Path(temporary) / "fused.onnx"
        export_graph(model, encoders.spec, graph)
        clock.say(f"exported the graph, {graph.stat().st_size / 1e6:.0f} MB")
        cases = batch_cases(encoded.sample, encoders.spec)
        selective = judge_selective(head_outputs(trained, tune), head_outputs(trained, test))
        parity = check_parity(model, graph, cases)
        clock.say(f"equal to torch within {parity:.1e} on {len(cases)} kinds of batches")
        engine = Engine(graph, provider="cpu")
        scorecard = {
            "records": _counts(encoded, examples),
            "splits": Assigned(examples.splits, encoded.rule).counts(examples.groups),
            "test_uses": [{"variant": FP32, "when": _now(), "why": "reported when it was built"}],
            "majority": _majority(seen),
            "cross_validation": {
                "folds": recipe.folds,
                "subsets": {name: score.as_dict() for name, score in validation.items()},
            },
            "tune": _scores(trained, tune),
            "test": _scores(trained, test),
            "variants": {
                "fp32": {
                    "bytes": graph.stat().st_size,
                    "difference_from_torch": parity,
                    **selective.card,
                    "ms_per_record": _latency(engine, {name: cases[name] for name in validation}),
                }
            },
        }
        bundle = write_bundle(
            output,
            name=output.name,
            graph=graph,
            spec=encoders.spec,
            labels=trained.labels,
            features=sum(trained.head.dims),
            tokenizer=tokenizer,
            golden_inputs=cases["mixed"],
            golden_outputs=engine(cases["mixed"]),
            golden_records=golden_records(encoded.sample_records, encoded.sample, encoders.spec),
            scorecard=scorecard,
            sources=encoders.sources,
            origin=recipe.origin(shards, encoders.identity),
            found=selective.fields,
            describe=lambda made: reference_from(made, inputs),
        )
        clock.say(f"wrote {output}")
    return bundle


class _Clock:
    """Prints each step with its seconds."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._start = perf_counter()

    def say(self, what: str) -> None:
        now = perf_counter()
        self._say(f"{now - self._start:6.1f} s  {what}")
        self._start = now


def _write_tokenizer(encoders: EncoderSet, directory: Path) -> Path | None:
    if encoders.tokenizer is None:
        return None
    path = directory / "tokenizer.json"
    path.write_text(encoders.tokenizer, encoding="utf-8")
    return path


def _usable(examples: Examples, recipe: Recipe) -> Examples:
    """The records of labels that are frequent enough.

    Raises:
        InputError: fewer than two such labels, or too few groups for the folds.
    """
    frequent = examples.frequent(recipe.least_records)
    labels = len(np.unique(frequent.labels))
    groups = len(np.unique(frequent.groups[frequent.splits == "train"]))
    if labels < 2:
        raise InputError(
            f"{labels} of {len(np.unique(examples.labels))} labels have {recipe.least_records} records or "
            "more; training needs two: add shards, or lower least_records"
        )
    if groups < 4 * recipe.folds:
        raise InputError(
            f"{len(frequent)} usable records have {groups} caption groups in the train split, too few for "
            f"{recipe.folds} folds; add training shards"
        )
    return frequent


def _counts(encoded: Encoded, examples: Examples) -> dict[str, int]:
    return {
        **{split: int((examples.splits == split).sum()) for split in SPLITS},
        "rare_label": len(encoded.examples) - len(examples),
        "unlabelled": encoded.unlabelled,
        "rejected": encoded.rejected,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _majority(examples: Examples) -> float:
    """Accuracy of always answering the most frequent label."""
    return float(np.unique(examples.labels, return_counts=True)[1].max() / len(examples))


def _scores(trained: TrainedHead, examples: Examples) -> dict[str, Any]:
    return {name: score.as_dict() for name, score in score_subsets(trained, examples).items()}


def _latency(engine: Engine, batches: Mapping[str, Feeds]) -> dict[str, float]:
    """Milliseconds a record of each batch, one thread, on the building machine; the best of a few runs."""
    found = {}
    for name, feeds in batches.items():
        times = []
        for _ in range(_LATENCY_RUNS):
            start = perf_counter()
            engine(feeds)
            times.append(perf_counter() - start)
        found[name] = round(min(times) / len(feeds["present"]) * 1e3, 3)
    return found
