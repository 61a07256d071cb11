"""The fused model: encoders over packed modalities, one feature per record and modality, one head.

Packed modalities: every modality has its own batch dimension N_m and a row index that says which record each
of its rows belongs to (`mmray.batching.pack` makes them). A record without a modality costs nothing, and a
clip has as many patches as it needs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from mmray.batching import INPUTS as INPUTS  # what the graph takes of each modality
from mmray.models.encoder import Encoder
from mmray.schema import MODALITIES, Modality

#: Graph outputs of a model with labels, and of one that only gives features.
OUTPUTS = ("logits", "scores", "features")
FEATURES_ONLY = ("features",)


def input_names(modalities: Iterable[Modality]) -> tuple[str, ...]:
    """Names of the inputs of a graph that takes these modalities, in order."""
    taken = set(modalities)
    return ("present", *(name for m in MODALITIES if m in taken for name in INPUTS[m]))


class PackedModel(nn.Module, ABC):
    """A model over packed modalities as one graph: it encodes each, then predicts from what is present."""

    modalities: tuple[Modality, ...]

    @property
    @abstractmethod
    def dims(self) -> tuple[int, ...]:
        """Widths of the parts of the features."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the graph's inputs, in order."""
        return input_names(self.modalities)

    def forward(
        self,
        present: Tensor,
        pixels: Tensor | None = None,
        pixels_row: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        text_row: Tensor | None = None,
        log_mel: Tensor | None = None,
        log_mel_row: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Score B records.

        Args:
            present: bool [B, M], which modalities count for which record.
            pixels: uint8 [Ni, H, W, 3].
            pixels_row: int64 [Ni], record of each image.
            input_ids: int32 [Nt, T].
            attention_mask: int32 [Nt, T].
            text_row: int64 [Nt], record of each text.
            log_mel: float16 or float32 [Np, F, K]; the mean over a clip's patches is its feature.
            log_mel_row: int64 [Np], record of each patch.

        Returns:
            Logits and scores (their softmax), float32 [B, C], if the model has labels; features, float32
            [B, D].
        """
        named = {
            "pixels": pixels,
            "pixels_row": pixels_row,
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "text_row": text_row,
            "log_mel": log_mel,
            "log_mel_row": log_mel_row,
        }
        feeds = {name: tensor for name, tensor in named.items() if tensor is not None}
        return self.answer(self.encode({"present": present, **feeds}), present)

    @abstractmethod
    def encode(
        self, feeds: Mapping[str, Tensor], known: Mapping[Modality, Tensor] | None = None
    ) -> dict[Modality, Tensor]:
        """Each modality of B records, encoded separately, float [B, ...].

        Args:
            feeds: the arguments of `forward`, by name.
            known: encoded modalities that exist already: they are not encoded again.

        Raises:
            ValueError: an input is missing.
        """

    @abstractmethod
    def decide(self, encoded: Mapping[Modality, Tensor], present: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, C] and features [B, D] from the result of `encode` and `present`, bool [B, M]."""

    def answer(self, encoded: Mapping[Modality, Tensor], present: Tensor) -> tuple[Tensor, ...]:
        """The graph's outputs from the result of `encode`."""
        logits, features = self.decide(encoded, present)
        return logits, logits.softmax(dim=1), features


class FusedModel(PackedModel):
    """Encoders and a head as one graph.

    Args:
        encoders: encoder of each modality, called with its inputs but the row index.
        head: gives logits from fused features and `present`. Its features are those of the encoders,
            concatenated in the order of `mmray.schema.MODALITIES`. None: the model only gives features.
    """

    def __init__(self, encoders: Mapping[Modality, Encoder], head: nn.Module | None = None) -> None:
        super().__init__()
        self.modalities = tuple(m for m in MODALITIES if m in encoders)
        self.encoders = nn.ModuleDict({m: encoders[m] for m in self.modalities})
        self.head = head

    @property
    def dims(self) -> tuple[int, ...]:
        """Width of each modality's features."""
        return tuple(self.encoder(m).dim for m in self.modalities)

    def encoder(self, modality: Modality) -> Encoder:
        """That of a modality."""
        encoder = self.encoders[modality]
        assert isinstance(encoder, Encoder)
        return encoder

    def encode(
        self, feeds: Mapping[str, Tensor], known: Mapping[Modality, Tensor] | None = None
    ) -> dict[Modality, Tensor]:
        """Features [B, D_m] of each modality, arbitrary for records that lack it; else as of any model."""
        known = known or {}
        found: dict[Modality, Tensor] = {}
        for modality in self.modalities:
            if modality in known:
                found[modality] = known[modality]
                continue
            if any(name not in feeds for name in INPUTS[modality]):
                raise ValueError(f"the model takes {modality}: give {', '.join(INPUTS[modality])}")
            *encoded, row = (feeds[name] for name in INPUTS[modality])
            found[modality] = pool_rows(self.encoders[modality](*encoded), row, feeds["present"].shape[0])
        return found

    def join(self, encoded: Mapping[Modality, Tensor], present: Tensor) -> Tensor:
        """Fused features [B, D] from the result of `encode`, zero where `present` [B, M] is false."""
        # Where, not a product: 0 * NaN would be NaN for an absent modality.
        parts = [
            torch.where(present[:, column, None], encoded[modality], 0.0)
            for column, modality in enumerate(self.modalities)
        ]
        return torch.cat(parts, dim=1)

    def decide(self, encoded: Mapping[Modality, Tensor], present: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, C] and fused features [B, D] from the result of `encode` and `present` [B, M].

        Raises:
            ValueError: the model has no head.
        """
        if self.head is None:
            raise ValueError("a model without a head has no logits; it only gives features")
        features = self.join(encoded, present)
        return self.head(features, present), features

    def answer(self, encoded: Mapping[Modality, Tensor], present: Tensor) -> tuple[Tensor, ...]:
        """Only features if there is no head."""
        return (self.join(encoded, present),) if self.head is None else super().answer(encoded, present)


def pool_rows(embeddings: Tensor, row: Tensor, records: int) -> Tensor:
    """Mean of each record's rows.

    Args:
        embeddings: float [N, D].
        row: int64 [N], values below `records`, in any order and number.
        records: B.

    Returns:
        float [B, D]; zeros for records without rows.
    """
    total = embeddings.new_zeros(records, embeddings.shape[1]).index_add(0, row, embeddings)
    count = embeddings.new_zeros(records).index_add(0, row, torch.ones_like(row, dtype=embeddings.dtype))
    return total / count.clamp(min=1.0)[:, None]
