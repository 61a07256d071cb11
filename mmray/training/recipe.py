"""The recipe of `mmray train`: a YAML file, every key a field of `TrainRecipe`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from mmray.config import read_yaml, with_assignments
from mmray.errors import ConfigError
from mmray.schema import MODALITIES, Modality


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Encoder(_Model):
    """Options that the encoders of all modalities have in common."""

    pretrained: bool = True  # start from published weights
    start: str | None = None  # or from those of an earlier training, in its folder
    frozen: bool = False  # its weights do not change; then its input is not augmented


class ImageModel(_Encoder):
    """EfficientNet-Lite0, or a shallower one of its kind."""

    encoder: Literal["efficientnet-lite0"] = "efficientnet-lite0"
    pixels: int = Field(224, ge=32, le=1024)  # height and width that the model sees
    depth: float = Field(1.0, gt=0, le=1)  # number of the published model's blocks that are kept


class TextModel(_Encoder):
    """MiniLM, or a table of words, which starts from MiniLM's.

    Without pretrained weights, the vocabulary is the words of the shards' own texts.
    """

    encoder: Literal["minilm", "small"] = "minilm"


class AudioModel(_Encoder):
    """YAMNet, or a small convolutional network without published weights."""

    encoder: Literal["yamnet", "small"] = "yamnet"

    @property
    def is_published(self) -> bool:
        """Whether it starts from published weights."""
        return self.pretrained and self.encoder == "yamnet"


class Distil(_Model):
    """Distillation from a teacher (Hinton et al. 2015; Romero et al. 2015, "FitNets")."""

    teacher: str  # a bundle
    logits: float = Field(1.0, ge=0)  # weight of the divergence from the teacher's softened scores
    temperature: float = Field(2.0, gt=0)  # temperature of the softened scores
    features: float = Field(0.0, ge=0)  # weight of the distance of projected features from the teacher's


class Prune(_Model):
    """Structured pruning in equal steps, each followed by its share of the epochs."""

    image: float = Field(0.0, ge=0, lt=1)  # share of the channels inside its blocks to remove
    text: float = Field(0.0, ge=0, lt=1)  # share of MiniLM's heads and feed-forward width to remove
    audio: float = Field(0.0, ge=0, lt=1)
    steps: int = Field(3, ge=1)


class TrainRecipe(_Model):
    """A model, what it is trained on, and how."""

    input: tuple[str, ...] = Field(min_length=1)  # labelled shards with the splits train, tune and test
    least_records: int = Field(15, ge=5)  # labels with fewer records are left out
    image: ImageModel | None = ImageModel()
    text: TextModel | None = TextModel()
    audio: AudioModel | None = AudioModel()
    # late: decisions of each modality, weighted; intermediate: gated features; early: one transformer over
    # patches, words and frames, which has no encoders of its own.
    fusion: Literal["late", "intermediate", "early"] = "intermediate"
    start: str | None = None  # a folder of an earlier training, whose weights it starts from
    distil: Distil | None = None
    prune: Prune | None = None
    sparsity: float = Field(0.0, ge=0, lt=1)  # share of single weights that become zero: smaller, not faster
    quantize: bool = False  # train as int8 will round (QAT)
    epochs: int = Field(10, ge=1)
    patience: int = Field(4, ge=1)  # training stops after so many epochs without a better tune accuracy
    batch_rows: int = Field(32, ge=1, le=4096)
    learning_rate: float = Field(1e-3, gt=0)
    pretrained_rate: float = Field(0.2, ge=0)  # factor of learning_rate for pretrained weights
    weight_decay: float = Field(0.02, ge=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    drop_modality: float = Field(0.4, ge=0, lt=1)  # probability that a modality is hidden in the second view
    augment: bool = True
    seed: int = 0

    @field_validator("input", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Modalities of the model, in the schema's order."""
        return tuple(m for m in MODALITIES if getattr(self, m) is not None)

    def digest(self) -> str:
        """Changes with every option, sha256, hex."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def load_recipe(path: Path, assignments: Iterable[str] = ()) -> TrainRecipe:
    """Read a recipe.

    Args:
        path: YAML file.
        assignments: ``seed=1`` or ``distil.features=0``; they override the file.

    Raises:
        ConfigError: names the file, the key, and the nearest key that exists.
    """
    recipe = with_assignments(TrainRecipe, read_yaml(path), assignments, str(path))
    for fault in _faults(recipe):
        raise ConfigError(f"{path}: {fault}")
    return recipe


def _faults(recipe: TrainRecipe) -> Iterator[str]:
    """Checks beyond the types."""
    if not recipe.modalities:
        yield "a model needs a modality; leave image, text or audio in"
    if recipe.prune and not recipe.start:
        yield "'prune': an untrained model cannot be pruned; name the folder of a training in `start`"
    if recipe.prune and not any((recipe.prune.image, recipe.prune.text, recipe.prune.audio)):
        yield "'prune': give a share for image, text or audio"
    for modality in recipe.modalities:
        if recipe.prune and getattr(recipe.prune, modality) and getattr(recipe, modality).frozen:
            yield f"'prune.{modality}': its encoder is frozen, so it could not recover; remove `frozen`"
    if sum((bool(recipe.prune), bool(recipe.sparsity), recipe.quantize)) > 1:
        yield "'prune', 'sparsity', 'quantize': take one of them; use two recipes, the second with `start`"
    if recipe.prune and recipe.fusion == "early":
        yield "'prune': early fusion has no encoders to prune; remove `prune` or take another fusion"
    if recipe.quantize and recipe.fusion == "early":
        yield "'quantize': early fusion has no encoders for QAT; remove `quantize` or take another fusion"
