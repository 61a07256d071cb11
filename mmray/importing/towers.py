"""Encoders from `transformers` models: CLIP and SigLIP for image and text, CLAP and AST for audio.

Embeddings are scaled to unit length, as the models compare them; except AST's, which has no text encoder.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmray.importing.processors import Normalization
from mmray.models.encoder import Encoder

Model = Any  # a torch module of transformers, whose attributes no type knows


class _Normalized(Encoder):
    """An encoder that normalizes its own input; `shift` and `factor` broadcast over the last axis."""

    def __init__(self, model: Model, dim: int, norm: Normalization) -> None:
        super().__init__()
        self.model, self.dim = model, dim
        std = torch.tensor(norm.std)
        self.register_buffer("factor", norm.scale / std, persistent=False)
        self.register_buffer("shift", -torch.tensor(norm.mean) / std, persistent=False)
        self.factor: Tensor
        self.shift: Tensor

    def normalize(self, x: Tensor) -> Tensor:
        """Converts any numbers to float32."""
        return x.to(torch.float32) * self.factor + self.shift


class ImageTower(_Normalized):
    """CLIP's or SigLIP's: uint8 pixels [N, H, W, 3] to unit vectors [N, `dim`]."""

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.normalize(pixels).permute(0, 3, 1, 2)
        return F.normalize(self.model.get_image_features(pixel_values=x).pooler_output, dim=-1)


class ClipText(Encoder):
    """CLIP's: int32 ids and mask [N, T] to unit vectors [N, `dim`], read at the first end token."""

    def __init__(self, model: Model, dim: int) -> None:
        super().__init__()
        self.model, self.dim = model, dim
        self.end_token = clip_end_token(model)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        ids, mask = input_ids.to(torch.int64), attention_mask.to(torch.int64)
        last = self.model.text_model(input_ids=ids, attention_mask=mask).last_hidden_state
        ends = input_ids if self.end_token is None else (ids == self.end_token).to(torch.int32)
        # Select by a mask: indexing becomes GatherND, which does not run without rows.
        here = torch.arange(ids.shape[1]) == ends.argmax(dim=1)[:, None]
        pooled = (last * here[:, :, None]).sum(dim=1)
        return F.normalize(self.model.text_projection(pooled), dim=-1)


class SiglipText(Encoder):
    """SigLIP's: int32 ids and mask [N, T] to unit vectors [N, `dim`].

    It was trained on texts of one length, padding included and not masked, so it always gets that length.
    """

    def __init__(self, model: Model, dim: int, tokens: int, padding: int) -> None:
        super().__init__()
        self.model, self.dim, self.tokens, self.padding = model, dim, tokens, padding

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        ids = torch.where(attention_mask > 0, input_ids, self.padding).to(torch.int64)
        ids = F.pad(ids, (0, self.tokens - ids.shape[1]), value=self.padding)
        return F.normalize(self.model.get_text_features(input_ids=ids).pooler_output, dim=-1)


class ClapAudio(_Normalized):
    """CLAP's: float log-mel [N, F, K] to unit vectors [N, `dim`]."""

    def forward(self, log_mel: Tensor) -> Tensor:
        x = self.normalize(log_mel)[:, None]
        unit: Tensor = self.model.get_audio_features(input_features=x).pooler_output
        return unit


class ClapText(Encoder):
    """CLAP's, for prompts only: int32 ids and mask [N, T] to unit vectors [N, `dim`]."""

    def __init__(self, model: Model, dim: int) -> None:
        super().__init__()
        self.model, self.dim = model, dim
        self.padding = int(model.config.text_config.pad_token_id)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        ids = torch.where(
            attention_mask > 0, input_ids, self.padding
        )  # it derives positions from the padding
        found = self.model.get_text_features(input_ids=ids, attention_mask=attention_mask)
        unit: Tensor = found.pooler_output
        return unit


class AstAudio(_Normalized):
    """AST's: float log-mel [N, F, K] to the mean [N, `dim`] of its two pooling tokens."""

    def forward(self, log_mel: Tensor) -> Tensor:
        pooled: Tensor = self.model(input_values=self.normalize(log_mel)).pooler_output
        return pooled


def clip_end_token(model: Model) -> int | None:
    """Id of the token that ends a text; None: the token with the highest id does.

    Old checkpoints say 2, which is wrong, and mean the highest (transformers#24773).
    """
    token = int(model.config.text_config.eos_token_id)
    return None if token == 2 else token
