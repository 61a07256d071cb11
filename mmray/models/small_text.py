"""SmallText: a student's text encoder, only a table of word vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmray.models.encoder import Encoder


class SmallText(Encoder):
    """Text encoder: int32 ids and mask [N, T] to float features [N, `dim`].

    They are the mean of the text's word vectors, as in fastText (Joulin et al., 2016, arXiv:1607.01759,
    section 2): the length of a learnt vector is its weight. The order of words is lost.

    Padding (mask 0) changes nothing; a row without any token gives zeros.

    Args:
        vocabulary: number of the tokenizer's tokens.
        dim: width of the features and of the word vectors.
    """

    def __init__(self, vocabulary: int = 30_522, dim: int = 128) -> None:
        super().__init__()
        self.dim = dim
        self.words = nn.Embedding(vocabulary, dim)
        nn.init.normal_(self.words.weight, std=dim**-0.5)  # of mean length 1

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Masked mean over the tokens."""
        kept = attention_mask.to(self.words.weight.dtype)[:, :, None]
        total = (self.words(input_ids) * kept).sum(dim=1)
        mean: Tensor = total / kept.sum(dim=1).clamp(min=1.0)
        return mean

    def inherit(self, words: Tensor) -> None:
        """Start from a larger encoder's word vectors: `projected_words` of `words` [vocabulary, H].

        Raises ValueError when the vocabularies differ.
        """
        if len(words) != len(self.words.weight):
            raise ValueError(
                f"a table of {len(words)} words for a vocabulary of {len(self.words.weight)}: "
                "both encoders must take the same tokenizer's ids"
            )
        with torch.no_grad():
            self.words.weight.copy_(projected_words(words, self.dim))


def projected_words(words: Tensor, width: int) -> Tensor:
    """Word vectors [V, H] on their first principal components, float [V, `width`], of mean length 1.

    Raises ValueError when the vectors have fewer components.
    """
    if width > words.shape[1]:
        raise ValueError(f"word vectors of width {words.shape[1]} have no {width} principal components")
    centred = words.detach().to(torch.float32) - words.detach().mean(dim=0)
    components = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :width]
    projected: Tensor = centred @ components
    mean_length: Tensor = projected.norm(dim=1).mean().clamp(min=1e-6)
    return projected / mean_length
