"""The loss: errors on labels and, with a teacher, the distance from its outputs.

Each record is seen twice, once with all its modalities and once with some of them hidden (modality dropout,
Neverova et al. 2016, "ModDrop"), so that the model learns to do without them. Both views have the same loss.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmray.training.recipe import TrainRecipe


class Objective(nn.Module):
    """Loss of a batch.

    Args:
        recipe: weights of its parts.
        features: width D of the student's features.
        taught: width of the teacher's features; 0 if there are none to learn from.
    """

    def __init__(self, recipe: TrainRecipe, features: int, taught: int) -> None:
        super().__init__()
        self._recipe = recipe
        self.project = nn.Linear(features, taught) if taught else None

    def forward(
        self, looks: list[Tensor], features: Tensor, targets: Tensor, teacher: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Parts of the loss, each a mean over the batch.

        Args:
            looks: logits [B, C] of each view.
            features: [B, D] of the first.
            targets: int64 [B].
            teacher: `logits` [B, C] and `features` [B, taught], or nothing.
        """
        smoothing, distil = self._recipe.label_smoothing, self._recipe.distil
        parts = {
            "labels": torch.stack(
                [F.cross_entropy(logits, targets, label_smoothing=smoothing) for logits in looks]
            ).mean()
        }
        if distil and distil.logits:
            parts["logits"] = (
                distil.logits
                * torch.stack(
                    [divergence(logits, teacher["logits"], distil.temperature) for logits in looks]
                ).mean()
            )
        if distil and self.project is not None:
            distance = (self.project(features) - teacher["features"]).square().mean()
            parts["features"] = distil.features * distance
        return parts


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergence of the student's softened scores from the teacher's, times the temperature squared.

    Hinton et al. 2015, "Distilling the knowledge in a neural network", section 2: the square keeps the
    size of the gradients independent of the temperature.
    """
    soft = F.log_softmax(student / temperature, dim=1)
    wanted = F.log_softmax(teacher / temperature, dim=1)
    return F.kl_div(soft, wanted, log_target=True, reduction="batchmean") * temperature**2


def hide(present: Tensor, chance: float, generator: torch.Generator) -> Tensor:
    """`present` bool [B, M] with modalities hidden at random, but never all that a record has."""
    drawn = torch.rand(present.shape, generator=generator).to(present.device)
    kept = present & (drawn >= chance)
    # If a record lost all, it keeps the modality that was closest to being kept.
    nearest = F.one_hot(torch.where(present, drawn, -1.0).argmax(dim=1), present.shape[1]).bool()
    return kept | (nearest & present & ~kept.any(dim=1, keepdim=True))
