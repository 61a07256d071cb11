"""Parity: whether a graph gives what the model it was exported from gives. Checked before first use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mmray.batching import Feeds
from mmray.engine import Engine
from mmray.errors import EngineError
from mmray.models.fused import FEATURES_ONLY, INPUTS, OUTPUTS
from mmray.models.threads import one_thread

#: Largest difference between torch and ONNX Runtime, as a share of the output's largest value.
TOLERANCE = 1e-4

#: Another implementation of the model: from a batch to arrays by the output's name.
Reference = Callable[[Feeds], Feeds]


def check_parity(model: nn.Module, graph: Path, cases: Mapping[str, Feeds]) -> float:
    """`compare_with` the torch model that the graph was exported from."""

    def run(feeds: Feeds) -> Feeds:
        tensors = {name: torch.from_numpy(a.copy()) for name, a in with_blank_rows(feeds).items()}
        with one_thread(), torch.no_grad():
            given = model(**tensors)
        arrays = [tensor.numpy() for tensor in (given if isinstance(given, tuple) else (given,))]
        return dict(zip(FEATURES_ONLY if len(arrays) == 1 else OUTPUTS, arrays, strict=True))

    return compare_with(run, "torch", graph, cases)


def compare_with(reference: Reference, whose: str, graph: Path, cases: Mapping[str, Feeds]) -> float:
    """Compare the graph on ONNX Runtime's CPU provider with another implementation of the model.

    Args:
        reference: gives every output of the graph.
        whose: what to call the reference.
        graph: ONNX file.
        cases: batches by a readable name, as `mmray.batching.pack` makes them.

    Returns:
        The largest difference found, as a share of the output's largest value.

    Raises:
        EngineError: names the case and the output that differ by more than TOLERANCE.
    """
    engine = Engine(graph, provider="cpu")
    worst = 0.0
    for case, feeds in cases.items():
        expected = reference(feeds)
        for name, found in engine(feeds).items():
            scale = max(1.0, float(np.abs(expected[name]).max()))
            difference = float(np.abs(np.subtract(found, expected[name])).max()) / scale
            if not difference <= TOLERANCE:  # also true for NaN
                shapes = ", ".join(f"{key} {array.shape}" for key, array in feeds.items())
                raise EngineError(
                    f"{graph}: output {name!r} differs from {whose}'s by {difference:.2g} on the "
                    f"batch {case!r} ({shapes}); the export changed the model"
                )
            worst = max(worst, difference)
    return worst


def with_blank_rows(feeds: Feeds) -> Feeds:
    """The batch with one blank row for each modality without rows: not every torch module takes zero rows."""
    filled = dict(feeds)
    for *names, row in INPUTS.values():
        if row in feeds and not len(feeds[row]):
            for name in (*names, row):
                blank = np.ones if name == "attention_mask" else np.zeros
                filled[name] = blank((1, *feeds[name].shape[1:]), feeds[name].dtype)
    return filled
