"""MiniLM: the text encoder, a BERT whose masked mean, scaled to unit length, is the sentence's feature.

The default size is that of sentence-transformers' all-MiniLM-L6-v2 (Wang et al., 2020, arXiv:2002.10957).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmray.models.encoder import Encoder

NORM_EPS = 1e-12
#: Added to the attention scores of padding. Finite, so that a row of only padding does not give NaN, and
#: within float16, where -1e9 would be infinite; exp(-1e4) is 0 in float32, too.
MASKED = -1e4

_NAMES = (
    (r"embeddings\.word_embeddings\.", "words."),
    (r"embeddings\.position_embeddings\.", "positions."),
    (r"embeddings\.token_type_embeddings\.", "types."),
    (r"embeddings\.LayerNorm\.", "norm."),
    (r"encoder\.layer\.(\d+)\.attention\.self\.(query|key|value)\.", r"layers.\1.\2."),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"layers.\1.attended."),
    (r"encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.", r"layers.\1.attended_norm."),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.", r"layers.\1.widen."),
    (r"encoder\.layer\.(\d+)\.output\.dense\.", r"layers.\1.narrow."),
    (r"encoder\.layer\.(\d+)\.output\.LayerNorm\.", r"layers.\1.norm."),
)


class Layer(nn.Module):
    """Post-norm transformer layer."""

    def __init__(self, hidden: int, heads: int, intermediate: int) -> None:
        super().__init__()
        self.heads, self.width = heads, hidden // heads
        self.query, self.key, self.value, self.attended = (nn.Linear(hidden, hidden) for _ in range(4))
        self.attended_norm = nn.LayerNorm(hidden, NORM_EPS)
        self.widen = nn.Linear(hidden, intermediate)
        self.narrow = nn.Linear(intermediate, hidden)
        self.norm = nn.LayerNorm(hidden, NORM_EPS)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [N, T, hidden], additive mask [N, 1, 1, T]."""
        query, key, value = (self._split(part(x)) for part in (self.query, self.key, self.value))
        # Written out, not scaled_dot_product_attention: its export depends on the opset, and the newer
        # Attention operator refuses this mask on ONNX Runtime's CPU provider.
        weights = (query @ key.transpose(2, 3) / self.width**0.5 + mask).softmax(dim=-1)
        joined = (weights @ value).transpose(1, 2).flatten(2)
        x = self.attended_norm(x + self.attended(joined))
        out: Tensor = self.norm(x + self.narrow(F.gelu(self.widen(x))))
        return out

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, self.width).transpose(1, 2)


class MiniLM(Encoder):
    """Text encoder: int32 ids and mask [N, T] to float features [N, `dim`] of unit length.

    Padding (mask 0) changes nothing; a row without any token gives zeros.
    """

    def __init__(
        self,
        vocabulary: int = 30_522,
        layers: int = 6,
        hidden: int = 384,
        heads: int = 12,
        intermediate: int = 1_536,
        positions: int = 512,
    ) -> None:
        super().__init__()
        self.dim = hidden
        self.words = nn.Embedding(vocabulary, hidden)
        self.positions = nn.Embedding(positions, hidden)
        self.types = nn.Embedding(2, hidden)
        self.norm = nn.LayerNorm(hidden, NORM_EPS)
        self.layers = nn.ModuleList(Layer(hidden, heads, intermediate) for _ in range(layers))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Masked mean of the last layer, scaled to unit length."""
        length = input_ids.shape[1]
        x = self.norm(self.words(input_ids) + self.positions.weight[:length] + self.types.weight[0])
        kept = attention_mask.to(x.dtype)
        mask = (1.0 - kept)[:, None, None, :] * MASKED
        for layer in self.layers:
            x = layer(x, mask)
        total = (x * kept[:, :, None]).sum(dim=1)
        mean = total / kept.sum(dim=1, keepdim=True).clamp(min=1.0)
        unit: Tensor = mean / mean.norm(dim=1, keepdim=True).clamp(min=1e-6)
        return unit

    def load_checkpoint(self, state: Mapping[str, Tensor]) -> None:
        """Load the weights of a BERT checkpoint in Hugging Face's naming; its pooler is left out.

        Raises RuntimeError when names or shapes do not fit.
        """
        own: dict[str, Tensor] = {}
        for name, value in state.items():
            for pattern, replacement in _NAMES:
                if re.match(pattern, name):
                    own[re.sub(f"^{pattern}", replacement, name)] = value.to(torch.float32)
        self.load_state_dict(own)
