"""Outputs of a teacher on the train records: a bundle, run by the job's engine; kept on disk."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from mmray.bundle import FP32, Bundle
from mmray.engine import Engine
from mmray.errors import ConfigError
from mmray.evaluation import Split
from mmray.training.prepared import Prepared

_ROWS = 8  # of one inference, as in the job
_TAUGHT: Split = "train"  # the only records that are trained on


@dataclass(frozen=True)
class Taught:
    """For each of N records; zero if the teacher was not run on it."""

    logits: npt.NDArray[np.float32]  # [N, C]
    features: npt.NDArray[np.float32]  # [N, D], each scaled to a mean of 0 and a deviation of 1 over train


def ask_teacher(
    teacher: Bundle, seen: Prepared, records: Prepared, classes: npt.NDArray[np.str_], folder: Path
) -> Taught:
    """The teacher's logits and features on the train records, in the order of `records`.

    Args:
        teacher: with the same labels.
        seen: the same shards under the teacher's preprocessing.
        records: under the student's.
        classes: names of the C labels.
        folder: where answers are kept for the next call, memory-mapped.

    Raises:
        ConfigError: the teacher does not know one of the labels.
    """
    if unknown := set(classes) - set(teacher.labels):
        raise ConfigError(
            f"{teacher.path}: the teacher does not know the label {min(unknown)!r}; train it on the same "
            "shards"
        )
    rows = records.of(_TAUGHT)
    key = f"{records.identity}-{seen.identity}-{teacher.digest[:16]}"
    files = [folder / f"teacher-{what}-{key}.npy" for what in ("logits", "features")]
    with FileLock(files[0].with_suffix(".lock")):
        if not all(file.exists() for file in files):
            answers = _answers(teacher, seen, _matching(seen, records, rows))
            columns = [teacher.labels.index(str(label)) for label in classes]
            for file, values in zip(
                files, (answers["logits"][:, columns], _scaled(answers["features"])), strict=True
            ):
                whole = np.zeros((len(records), values.shape[1]), np.float32)
                whole[rows] = values
                partial = file.with_suffix(".partial")
                with partial.open("wb") as sink:
                    np.save(sink, whole)
                partial.replace(file)
    return Taught(*(np.load(file, mmap_mode="r") for file in files))


def _scaled(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Each column with mean 0 and standard deviation 1."""
    spread = features.std(axis=0)
    scaled: npt.NDArray[np.float32] = (features - features.mean(axis=0)) / np.where(spread > 1e-6, spread, 1)
    return scaled


def _matching(seen: Prepared, records: Prepared, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Index in `seen` of each row of `records`."""
    index = {(int(shard), int(row)): i for i, (shard, row) in enumerate(seen.places)}
    missing = [place for place in map(tuple, records.places[rows].tolist()) if place not in index]
    if missing:
        raise ConfigError(
            f"the teacher's preprocessing refuses row {missing[0][1]} of shard {missing[0][0]}, and "
            f"{len(missing) - 1} more; leave them out"
        )
    return np.array([index[shard, row] for shard, row in records.places[rows].tolist()], np.intp)


def _answers(
    teacher: Bundle, seen: Prepared, rows: npt.NDArray[np.intp]
) -> dict[str, npt.NDArray[np.float32]]:
    """Outputs of the teacher's float graph, on all of the machine's CPUs."""
    engine = Engine(teacher.graph(FP32), provider="cpu")
    parts = [rows[i : i + _ROWS] for i in range(0, len(rows), _ROWS)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda part: engine(seen.feeds(part)), parts))
    return {name: np.concatenate([o[name] for o in found]) for name in ("logits", "features")}
