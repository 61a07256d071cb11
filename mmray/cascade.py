"""The stages of a model: one for an ordinary variant; several for a cascade, with early exits.

A stage answers from the modalities seen so far. A record exits with that answer if its *calibrated*
confidence reaches the threshold for its set of modalities. The confidence is the largest probability after
dividing the logits by a temperature (Guo et al. 2017, "On Calibration of Modern Neural Networks").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import numpy.typing as npt

from mmray.batching import Feeds
from mmray.bundle import Bundle, CascadeStage, Exit
from mmray.engine import Engine, Provider
from mmray.loading import open_engine
from mmray.schema import Modality, set_name
from mmray.shapes import Ladder

#: Prefix of a tensor that a stage passes on, or takes from an earlier one.
CARRIED = "carried/"

_SHARES = 1 << 32  # of crc32


@dataclass(frozen=True)
class Stage:
    """A loaded graph, its modalities, and its exits."""

    engine: Engine
    takes: tuple[Modality, ...]  # its own modalities
    seen: tuple[Modality, ...]  # those of earlier stages, too, in the order of the columns of `present`
    exits: Mapping[str, Exit]  # by the modalities that a record has of those seen, as "text+audio"

    def leaving(
        self, logits: npt.NDArray[np.generic], present: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """Which records exit, and their confidence.

        Args:
            logits: [B, C].
            present: [B, M], of the modalities that were seen.

        Returns:
            bool [B] and float32 [B]; the confidence is 0 if there is no exit for such a record.
        """
        leaves = np.zeros(len(logits), np.bool_)
        confidence = np.zeros(len(logits), np.float32)
        for flags in np.unique(present, axis=0):
            rule = self.exits.get(set_name(self.seen, flags))
            if rule is None:
                continue
            rows = (present == flags).all(axis=1)
            confidence[rows] = softmax(logits[rows].astype(np.float32) / rule.temperature).max(axis=1)
            leaves[rows] = confidence[rows] >= rule.threshold
        return leaves, confidence


def open_stages(
    bundle: Bundle,
    variant: str,
    *,
    provider: Provider,
    threads: int,
    ladder: Ladder | None,
    shared: bool,
    nhwc: bool,
    trace: Path | None = None,
) -> list[Stage]:
    """The loaded stages of a variant; one stage if it is not a cascade, or if no record could ever exit.

    Raises:
        BundleError: no such variant.
        EngineError: a graph or the provider did not load.
    """
    entry = bundle.manifest.variants[variant]
    every = bundle.spec.modalities

    def load(file: str) -> Engine:
        return open_engine(
            bundle,
            variant,
            file=file,
            provider=provider,
            threads=threads,
            ladder=ladder,
            shared=shared,
            nhwc=nhwc,
            trace=trace,
        )

    if entry.cascade is None or not runs_in_stages(bundle, variant):
        return [Stage(load(entry.file), every, every, {})]
    stages = entry.cascade.stages
    return to_stages(stages, [load(stage.file) for stage in stages], every)


def to_stages(
    entries: Sequence[CascadeStage], engines: Sequence[Engine], modalities: Sequence[Modality]
) -> list[Stage]:
    """Entries of a manifest and their loaded graphs as stages; `modalities` are the columns of `present`."""
    stages = []
    so_far: set[Modality] = set()
    for entry, engine in zip(entries, engines, strict=True):
        so_far |= set(entry.modalities)
        seen = tuple(m for m in modalities if m in so_far)
        stages.append(Stage(engine, entry.modalities, seen, entry.exits))
    return stages


def runs_in_stages(bundle: Bundle, variant: str) -> bool:
    """Whether a variant is a cascade in which a record could exit early."""
    cascade = bundle.manifest.variants[variant].cascade
    stages = cascade.stages if cascade else ()
    return any(rule.threshold <= 1 for stage in stages for rule in stage.exits.values())


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """[B, C] → [B, C], rows sum to 1."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: npt.NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def carried(outputs: Feeds) -> Feeds:
    """A stage's outputs that later stages may take."""
    return {name: values for name, values in outputs.items() if name.startswith(CARRIED)}


def in_shadow(shards: Sequence[str], rows: Sequence[int], share: float) -> npt.NDArray[np.bool_]:
    """Which records are also run in full: pseudo-random, but the same in every run."""
    drawn = [crc32(f"{shard}#{row}".encode()) for shard, row in zip(shards, rows, strict=True)]
    return np.array(drawn, np.int64) < share * _SHARES


def passes(
    stages: Sequence[Stage], feeds: Feeds, modalities: Sequence[Modality]
) -> list[tuple[Feeds, Feeds]]:
    """Inputs and outputs of each stage for a batch without exits.

    Args:
        stages: all of a model's.
        feeds: as `mmray.batching.pack` makes them, of all modalities.
        modalities: of the columns of `present`.
    """
    handed: Feeds = {}
    found = []
    for stage in stages:
        present = np.logical_and(feeds["present"], np.isin(modalities, stage.seen))
        known = {**feeds, **handed, "present": present}
        outputs = stage.engine({name: known[name] for name in stage.engine.inputs})
        handed |= carried(outputs)
        found.append((known, outputs))
    return found
