"""Early fusion: one small transformer over the tokens of all modalities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmray.models.fused import INPUTS, PackedModel, pool_rows
from mmray.models.minilm import MASKED, NORM_EPS, Layer
from mmray.models.small_sound import DEVIATION as SOUND_DEVIATION
from mmray.models.small_sound import MEAN as SOUND_MEAN
from mmray.preprocess.spec import PreprocessSpec
from mmray.schema import Modality

INIT_DEVIATION = 0.02  # of embeddings, as in BERT
PIXEL_MEAN, PIXEL_DEVIATION = 127.0, 128.0  # as of the image encoder


@dataclass(frozen=True)
class EarlySizes:
    """Sizes of the transformer, and how much of a modality is one token."""

    hidden: int = 192
    layers: int = 4
    heads: int = 6
    intermediate: int = 384
    patch_px: int = 16
    frames: int = 8  # log-mel frames of a token


class EarlyFusion(PackedModel):
    """Pixel patches, word tokens and log-mel frames as one sequence behind a class token.

    Patches of pixels are embedded as in ViT (Dosovitskiy et al., 2021, arXiv:2010.11929, section 3.1), frames
    as in AST (Gong et al., 2021, arXiv:2104.01778); one encoder reads all of them, as in ViLT (Kim et al.,
    2021, arXiv:2102.03334). Each modality has positions of its own, which also tell its type. A record has
    one picture and one text. The patches of a clip are averaged, token by token, so that a clip of
    any length has as many tokens as one patch; the order of its patches is lost.

    Tokens of absent modalities are masked. Unlike in a `FusedModel` they cost as much as any.

    Args:
        spec: modalities, and shapes of pixels, texts and log-mel patches.
        classes: number of classes.
        vocabulary: number of the tokenizer's tokens.
        sizes: of the transformer.

    Raises:
        ValueError: a picture or a log-mel patch is not a whole number of tokens.
    """

    def __init__(
        self, spec: PreprocessSpec, classes: int, vocabulary: int = 30_522, sizes: EarlySizes | None = None
    ) -> None:
        super().__init__()
        sizes = sizes or EarlySizes()
        hidden, self.patch_px = sizes.hidden, sizes.patch_px
        self.modalities = spec.modalities
        lengths: dict[Modality, int] = {}
        if image := spec.image:
            lengths["image"] = _tokens(image.height, sizes.patch_px) * _tokens(image.width, sizes.patch_px)
            self.patches = nn.Linear(3 * sizes.patch_px**2, hidden)
        if text := spec.text:
            lengths["text"] = text.max_tokens
            self.words = nn.Embedding(vocabulary, hidden)
            nn.init.normal_(self.words.weight, std=INIT_DEVIATION)
        if audio := spec.audio:
            lengths["audio"] = _tokens(audio.patch_frames, sizes.frames)
            self.frames = nn.Linear(sizes.frames * audio.mel_bins, hidden)
        self.start = nn.Parameter(torch.randn(hidden) * INIT_DEVIATION)
        self.positions = nn.ParameterDict(
            {m: nn.Parameter(torch.randn(length, hidden) * INIT_DEVIATION) for m, length in lengths.items()}
        )
        self.norm = nn.LayerNorm(hidden, NORM_EPS)
        self.layers = nn.ModuleList(
            Layer(hidden, sizes.heads, sizes.intermediate) for _ in range(sizes.layers)
        )
        self.classify = nn.Linear(hidden, classes)

    @property
    def dims(self) -> tuple[int, ...]:
        """Widths of the parts of the features: here one."""
        return (self.classify.in_features,)

    def encode(
        self,
        feeds: Mapping[str, Tensor],
        known: Mapping[Modality, Tensor] | None = None,  # noqa: ARG002
    ) -> dict[Modality, Tensor]:
        """Tokens [B, L_m, hidden] of each modality, NaN for those that a record does not have.

        `known` must be empty: there are no encoders that could have run before.
        """
        found: dict[Modality, Tensor] = {}
        for modality in self.modalities:
            if any(name not in feeds for name in INPUTS[modality]):
                raise ValueError(f"the model takes {modality}: give {', '.join(INPUTS[modality])}")
            inputs = [feeds[name] for name in INPUTS[modality]]
            tokens, row, records = self._tokens(modality, inputs[0]), inputs[-1], feeds["present"].shape[0]
            length = tokens.shape[1]
            tokens = self.norm(tokens + self.positions[modality][:length])
            pooled = pool_rows(tokens.flatten(1), row, records).view(records, length, -1)
            if modality == "text":
                there = pool_rows(inputs[1].to(tokens.dtype), row, records) > 0
                pooled = torch.where(there[:, :, None], pooled, torch.nan)
            found[modality] = pooled
        return found

    def decide(self, encoded: Mapping[Modality, Tensor], present: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, C] and the last state of the class token [B, hidden]."""
        sequence = [self.norm(self.start).expand(present.shape[0], 1, -1)]
        kept = [torch.ones_like(present[:, :1])]
        for column, modality in enumerate(self.modalities):
            tokens = encoded[modality]
            there = present[:, column, None] & ~tokens[:, :, 0].isnan()
            # The mask alone would let NaN through: 0 * NaN.
            sequence.append(torch.where(there[:, :, None], tokens, 0.0))
            kept.append(there)
        x = torch.cat(sequence, dim=1)
        mask = (~torch.cat(kept, dim=1)).to(x.dtype)[:, None, None, :] * MASKED
        for layer in self.layers:
            x = layer(x, mask)
        features = x[:, 0]
        return self.classify(features), features

    def _tokens(self, modality: Modality, rows: Tensor) -> Tensor:
        """Rows of a modality to their tokens, float [N, L, hidden], without positions."""
        if modality == "image":
            n, height, width, _ = rows.shape
            side = self.patch_px
            grid = rows.reshape(n, height // side, side, width // side, side, 3).transpose(2, 3)
            flat = grid.reshape(n, self.positions["image"].shape[0], self.patches.in_features)
            patches: Tensor = self.patches((flat.to(self.start.dtype) - PIXEL_MEAN) / PIXEL_DEVIATION)
            return patches
        if modality == "text":
            words: Tensor = self.words(rows)
            return words
        x = (rows.to(self.start.dtype) - SOUND_MEAN) / SOUND_DEVIATION
        length = self.positions["audio"].shape[0]
        frames: Tensor = self.frames(x.reshape(x.shape[0], length, self.frames.in_features))
        return frames


def _tokens(length: int, of_one: int) -> int:
    """Number of tokens of a side."""
    if length % of_one:
        raise ValueError(
            f"early fusion: {length} pixels or frames are not a multiple of {of_one}, the size of a token"
        )
    return length // of_one
