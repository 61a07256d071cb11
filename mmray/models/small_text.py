"""SmallText: a student's text encoder, a table of word vectors and nothing that mixes them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmray.models.encoder import Encoder
from mmray.models.minilm import MASKED


class SmallText(Encoder):
    """Text encoder: int32 ids and mask [N, T] to float features [N, `dim`].

    The features are a weighted mean of a text's word vectors, where each word of the vocabulary has a vector
    and a weight, both learnt: a bag of words as in fastText (Joulin et al., 2016, arXiv:1607.01759, section
    2). The weights let it pass over [CLS], [SEP] and words that say little. The order of words is lost.

    Padding (mask 0) changes nothing; a row without any token gives zeros.

    Args:
        vocabulary: number of the tokenizer's tokens.
        dim: width of the features and of the word vectors.
    """

    def __init__(self, vocabulary: int = 30_522, dim: int = 128) -> None:
        super().__init__()
        self.dim = dim
        self.words = nn.Embedding(vocabulary, dim)
        self.weights = nn.Embedding(vocabulary, 1)
        nn.init.normal_(self.words.weight, std=dim**-0.5)
        nn.init.zeros_(self.weights.weight)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Mean of the words' vectors, weighed by the softmax of the words' weights."""
        kept = attention_mask.to(self.words.weight.dtype)[:, :, None]
        shares = (self.weights(input_ids) + (1.0 - kept) * MASKED).softmax(dim=1)
        mean: Tensor = (self.words(input_ids) * shares * kept).sum(dim=1)
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
    projected = centred @ components
    return projected / projected.norm(dim=1).mean().clamp(min=1e-6)
