"""Features of frozen encoders, computed once and kept; the job's engine is 3 times as fast as torch."""

from __future__ import annotations

import hashlib
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from mmray.engine import Engine
from mmray.graphs import export_graph
from mmray.models.encoder import Encoder
from mmray.models.fused import FEATURES_ONLY, FusedModel
from mmray.preprocess.spec import PreprocessSpec
from mmray.schema import Modality
from mmray.training.prepared import Prepared

_ROWS = 8  # of one inference, as in the job


def frozen_features(
    prepared: Prepared, modality: Modality, encoder: Encoder, folder: Path
) -> npt.NDArray[np.float32]:
    """Features [N, D] of a frozen encoder over all records, memory-mapped; zero if the modality is missing.

    Args:
        prepared: N records.
        modality: of the encoder.
        encoder: in eval mode.
        folder: where they are kept, under a digest of records and weights.
    """
    digest = hashlib.sha256("\n".join((prepared.identity, modality)).encode())
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    file = folder / f"{modality}-{digest.hexdigest()[:16]}.npy"
    with FileLock(file.with_suffix(".lock")):
        if not file.exists():
            _make(file, prepared.only(modality), modality, encoder)
    found: npt.NDArray[np.float32] = np.load(file, mmap_mode="r")
    return found


def _make(file: Path, own: Prepared, modality: Modality, encoder: Encoder) -> None:
    engine = _engine(modality, encoder, own.spec)
    there = np.flatnonzero(own.present)
    parts = [there[i : i + _ROWS] for i in range(0, len(there), _ROWS)]
    partial = file.with_suffix(".partial")
    values = np.lib.format.open_memmap(partial, "w+", np.float32, (len(own), encoder.dim))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        features = pool.map(lambda rows: engine(own.feeds(rows))["features"], parts)
        for rows, of_rows in zip(parts, features, strict=True):
            values[rows] = of_rows
    values.flush()
    partial.replace(file)


def _engine(modality: Modality, encoder: Encoder, spec: PreprocessSpec) -> Engine:
    """The encoder as a graph."""
    with tempfile.TemporaryDirectory() as temporary:
        graph = Path(temporary) / "encoder.onnx"
        export_graph(FusedModel({modality: encoder}), spec, graph, FEATURES_ONLY)
        return Engine(graph, provider="cpu")
