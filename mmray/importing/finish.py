"""The last steps of every import: check the graph on batches of every kind, then write the bundle."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmray.batching import Feeds
from mmray.bundle import FP32, Bundle, write_bundle
from mmray.engine import Engine
from mmray.errors import ModelError
from mmray.graphs import batch_cases, golden_records
from mmray.importing.card import Card
from mmray.importing.interface import check_interface
from mmray.importing.packed import check_packed
from mmray.importing.samples import sample_records

Say = Callable[[str], None]
#: Compares the graph with what it was made from, on batches by name; returns the largest difference.
Parity = Callable[[Path, Mapping[str, Feeds]], float]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """A graph that is to become a bundle."""

    graph: Path  # ONNX file with the inputs of `mmray.batching.pack`
    where: str  # its name in errors
    parity: Parity  # compares it with the model that it was made from


def finish(made: Finished, card: Card, output: Path, say: Say) -> Bundle:
    """Check a graph, then write its bundle.

    Args:
        made: the graph.
        card: the other contents of the bundle.
        output: the bundle's directory; its name becomes the bundle's.
        say: gets progress messages.

    Raises:
        ModelError: the graph's inputs, outputs or answers do not fit.
        EngineError: the graph differs from what it was made from.
        BundleError: `output` exists and is not a bundle.
    """
    check_interface(made.graph, made.where, card.spec, len(card.labels))
    records, sample = sample_records(card)
    cases = batch_cases(sample, card.spec)
    check_packed(made.graph, made.where, card.spec, sample, cases)
    say(f"packed modalities work on {len(cases)} kinds of batches")
    difference = made.parity(made.graph, cases)
    say(f"equal to the model within {difference:.1e}")
    golden = Engine(made.graph, provider="cpu")(cases["mixed"])
    _fits_float16(made.where, golden["features"])
    size = made.graph.stat().st_size
    bundle = write_bundle(
        output,
        name=output.name,
        graph=made.graph,
        spec=card.spec,
        labels=card.labels,
        features=golden["features"].shape[1],
        tokenizer=card.tokenizer,
        golden_inputs=cases["mixed"],
        golden_outputs=golden,
        golden_records=golden_records(records, sample, card.spec),
        scorecard={"variants": {FP32: {"bytes": size, "difference_from_source": difference}}},
        sources=card.sources,
        origin=card.origin,
    )
    say(f"wrote {output}, {size / 1e6:.1f} MB")
    return bundle


def _fits_float16(where: str, features: np.ndarray[Any, Any]) -> None:
    """Refuse features beyond float16: predictions store them in half precision."""
    largest, limit = float(np.abs(features).max()), float(np.finfo(np.float16).max)
    if largest > limit:
        raise ModelError(
            f"{where}: features reach {largest:.3g}, more than float16 holds ({limit:g}); scale them in the "
            "model"
        )
