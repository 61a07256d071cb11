"""One table in one stage: which rows are answered, which go on, and with which values."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmray.batching import Feeds
from mmray.cascade import Stage, carried
from mmray.drift import Seen, SeenBatch
from mmray.predictor.answers import EARLY, Answers, Step, early_of, hand_on, keep
from mmray.predictor.blame import Failed
from mmray.predictor.shadow import agreement, best, drawn
from mmray.schema import OutputColumns


@dataclass(frozen=True)
class AnswerInfo:
    """What answers state about their model."""

    variant: str
    bundle: str  # its digest
    labels: npt.NDArray[np.object_]  # [C]
    columns: OutputColumns
    decisive: str  # output that a prediction is read from


class StagePass:
    """The rows of a table in a stage.

    Args:
        tensors: rows of TENSORS, or those that the previous stage passed on.
        info: what answers state about the model.
        stage: that they go through.
        number: of the stage, from 1.
        stages: how many there are.
    """

    def __init__(self, tensors: pa.Table, info: AnswerInfo, stage: Stage, number: int, stages: int) -> None:
        self._tensors, self._info, self._stage = tensors, info, stage
        self._number, self._stages = number, stages
        self._early = early_of(tensors).copy()
        #: Rows that were answered before and go on only to be compared, bool [N].
        self.is_shadow = self._early >= 0
        self._answers = Answers(tensors, info.labels, info.columns)
        self._done = self._answers.failed()
        self._handed_on: Feeds = {}
        self._seen: list[SeenBatch] = []
        #: "left 1" and so on by stage; "shadowed" and "agreed" of the last one.
        self.counts: Counter[str] = Counter()

    @property
    def sound(self) -> npt.NDArray[np.bool_]:
        """Which rows have no error so far, bool [N]."""
        return ~self._answers.failed()

    def fail(self, failed: Failed) -> None:
        """A row gets no answer."""
        self._answers.errors[failed.row] = failed.error
        self._done[failed.row] = True

    def answer(self, rows: npt.NDArray[np.int64], present: npt.NDArray[np.bool_], outputs: Feeds) -> None:
        """Assign the graph's outputs to rows; each row exits with its answer or goes on.

        Args:
            rows: [B] indices.
            present: [B, M], of the modalities that the stage has seen.
            outputs: of the graph, for those rows.
        """
        decisive = self._info.decisive
        if self._number == self._stages:
            leaves = np.ones(len(rows), np.bool_)
            confidence = np.asarray(outputs[decisive].max(axis=1), np.float32)
            if self.is_shadow[rows].any():
                self.counts.update(agreement(self._early[rows], best(outputs, decisive)))
        else:
            leaves, confidence = self._stage.leaving(outputs["logits"], present)
            leaves &= ~self.is_shadow[rows]
            kept = {**carried(outputs), EARLY: best(outputs, decisive)}
            keep(self._handed_on, kept, rows, self._tensors.num_rows)
        self._answers.put(rows, outputs, confidence)
        self._seen.append(SeenBatch(rows, outputs, leaves))
        self._done[rows[leaves]] = True
        self.counts[f"left {self._number}"] += int((leaves & ~self.is_shadow[rows]).sum())

    def seen(self) -> Seen | None:
        """What the stage saw, without the rows that are only compared."""
        return Seen.of(
            self._tensors,
            self._seen,
            ~self.is_shadow,
            takes=self._stage.takes,
            stage=self._number,
            stages=self._stages,
        )

    def step(self, shadow: float) -> Step:
        """Answers, and the rows that go on to the next stage.

        Args:
            shadow: share of the early exits that go on anyway, to be compared.
        """
        answered = np.flatnonzero(self._done & ~self.is_shadow)
        shadowed = np.zeros(0, np.int64)
        if self._number < self._stages:
            shadowed = drawn(self._tensors, answered[self.sound[answered]], shadow)
        if len(shadowed):
            self._early[shadowed] = self._handed_on[EARLY][shadowed]
        going_on = np.sort(np.concatenate([np.flatnonzero(~self._done), shadowed]))
        info = self._info
        table = self._answers.to_table(
            answered, variant=info.variant, bundle=info.bundle, stage=self._number, seen=self._stage.seen
        )
        return Step(table, answered, hand_on(self._tensors, going_on, self._handed_on, self._early), going_on)
