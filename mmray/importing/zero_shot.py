"""Zero-shot labels: a class is the direction of the texts that describe it, in each modality's own space.

The logit of a class is its cosine with the record's feature times the model's own temperature (Radford et al.
2021, arXiv:2103.00020), averaged over the modalities of the record that have a text encoder. Scores are the
softmax over the prompts, also for SigLIP, so they show which prompt fits best, not whether one fits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmray.models.head import SubsetHead
from mmray.schema import subsets


@dataclass(frozen=True)
class Space:
    """The joint space of one modality and texts."""

    encoder: nn.Module  # int32 ids and mask [N, T] to unit vectors [N, D] of the modality's space
    tokenize: Callable[[Sequence[str]], Sequence[Sequence[int]]]
    temperature: float  # factor of the cosines

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors [texts, D]."""
        rows = self.tokenize(texts)
        longest = max(len(ids) for ids in rows)
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], dtype=torch.int32)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], dtype=torch.int32)
        embedded: Tensor = self.encoder.eval()(ids, mask)
        return embedded


@torch.no_grad()
def prompt_head(
    dims: Sequence[int], spaces: Sequence[Space | None], prompts: Mapping[str, Sequence[str]]
) -> SubsetHead:
    """A head without any training.

    Args:
        dims: width of each modality's features, which are unit vectors.
        spaces: of each modality; None: it does not affect the classes.
        prompts: class: texts that describe it; more than one are averaged.
    """
    head = SubsetHead(dims, len(prompts)).requires_grad_(False)
    for weight, space in zip(head.weights, spaces, strict=True):
        if space:
            means = [space.embed(texts).mean(dim=0) for texts in prompts.values()]
            weight.copy_(space.temperature * torch.nn.functional.normalize(torch.stack(means), dim=-1))
    speaks = torch.tensor([space is not None for space in spaces])
    for flags in torch.tensor(subsets(len(dims))):
        head.gain[int((flags * head.place).sum())] = 1 / max(1, int((flags & speaks).sum()))
    return head
