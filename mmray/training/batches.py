"""Data of the training loop: the rows of an epoch, shuffled by the seed, and batches of them as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmray.graphs import with_blank_rows
from mmray.models.fused import INPUTS
from mmray.schema import Modality
from mmray.training.augment import augment
from mmray.training.prepared import Prepared


@dataclass(frozen=True)
class Batch:
    """B records."""

    feeds: Mapping[str, Tensor]  # inputs of the encoders that are trained, and `present`
    known: Mapping[Modality, Tensor]  # [B, D_m] float32: features of frozen encoders
    targets: Tensor  # [B] int64
    rows: npt.NDArray[np.intp]  # [B], of the prepared records


class Batches:
    """Batches of prepared records.

    Args:
        prepared: all records.
        classes: names of the labels, in order.
        known: features [N, D_m] of frozen encoders over all of them (`mmray.training.frozen`).
        augmented: whether images and sounds are altered at random.
        device: where the tensors are; images and sounds are altered there, too.
    """

    def __init__(
        self,
        prepared: Prepared,
        classes: npt.NDArray[np.str_],
        known: Mapping[Modality, npt.NDArray[np.float32]],
        *,
        augmented: bool,
        device: torch.device,
    ) -> None:
        self._prepared, self._known, self._augmented = prepared, known, augmented
        self._device = device
        self._targets = np.searchsorted(classes, prepared.labels)
        self._skipped = {name for m in known for name in INPUTS[m]}
        self._present = prepared.present

    def epoch(
        self, rows: npt.NDArray[np.intp], batch_rows: int, seed: int, *, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """The rows, shuffled by the seed; each of `world` workers gets its share of every batch.

        A last incomplete batch is dropped. The next batch is prepared during a training step.
        """
        order = np.random.default_rng(seed).permutation(rows)
        full = len(order) // batch_rows * batch_rows or len(order)
        parts = [order[start : start + batch_rows][rank::world] for start in range(0, full, batch_rows)]
        yield from self._made(parts, seed if self._augmented else None)

    def plain(self, rows: npt.NDArray[np.intp], batch_rows: int) -> Iterator[Batch]:
        """The rows in their order, not augmented."""
        yield from self._made([rows[i : i + batch_rows] for i in range(0, len(rows), batch_rows)], None)

    def _made(self, parts: list[npt.NDArray[np.intp]], seed: int | None) -> Iterator[Batch]:
        with ThreadPoolExecutor(1) as pool:
            waiting = None
            for number, rows in enumerate(parts):
                making = pool.submit(self._batch, rows, None if seed is None else seed * 1_000_003 + number)
                if waiting:
                    yield waiting.result()
                waiting = making
            if waiting:
                yield waiting.result()

    def _batch(self, rows: npt.NDArray[np.intp], seed: int | None) -> Batch:
        if len(self._known) == self._present.shape[1]:  # nothing has to be read
            feeds = {"present": self._tensor(self._present[rows])}
        else:
            arrays = with_blank_rows(self._prepared.feeds(rows))
            feeds = {name: self._tensor(array) for name, array in arrays.items() if name not in self._skipped}
            if seed is not None:
                feeds = augment(feeds, torch.Generator(self._device).manual_seed(seed))
        known = {m: self._tensor(values[rows]) for m, values in self._known.items()}
        return Batch(feeds, known, self._tensor(self._targets[rows]), rows)

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        """A copy of the array: the array may be read-only memory of a file."""
        return torch.tensor(array, device=self._device)
