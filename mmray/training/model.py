"""Builds a recipe's model: encoders with their initial weights, a fusion, and the preprocessing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn

from mmray.bundle import Source
from mmray.models.early import EarlyFusion
from mmray.models.efficientnet_lite import EfficientNetLite
from mmray.models.encoder import Encoder
from mmray.models.encoders import source_of, word_tokenizer, yamnet_convolutions
from mmray.models.fused import FusedModel, PackedModel
from mmray.models.fusion import GatedFusion
from mmray.models.head import SubsetHead
from mmray.models.minilm import MiniLM
from mmray.models.pretrained import (
    EFFICIENTNET_LITE0,
    MINILM,
    MINILM_TOKENIZER,
    PRETRAINED_SPEC,
    YAMNET,
    fetch,
)
from mmray.models.small_sound import SmallSound
from mmray.models.small_text import SmallText
from mmray.models.yamnet import YAMNet
from mmray.preprocess.spec import AudioSpec, ImageSpec, PreprocessSpec
from mmray.schema import Modality
from mmray.training.batches import Batch
from mmray.training.recipe import AudioModel, ImageModel, TextModel, TrainRecipe
from mmray.training.weights import BEST, load_encoder


@dataclass(frozen=True)
class Design:
    """Preprocessing of a model, and the published weights that it starts from."""

    spec: PreprocessSpec
    tokenizer: Path | None
    sources: tuple[Source, ...]


def design(recipe: TrainRecipe, downloads: Path, folder: Path) -> Design:
    """Preprocessing of a model, and its tokenizer: downloaded, or made from the shards' texts in a folder.

    Raises:
        UsageError: a file cannot be downloaded or is not the published one.
    """
    spec = PreprocessSpec(
        image=ImageSpec(height=recipe.image.pixels, width=recipe.image.pixels) if recipe.image else None,
        text=PRETRAINED_SPEC.text if recipe.text else None,
        audio=AudioSpec() if recipe.audio else None,
    )
    used = []
    if recipe.image and recipe.image.pretrained:
        used.append(EFFICIENTNET_LITE0)
    tokenizer = None
    if recipe.text and recipe.text.pretrained:
        used += [MINILM, MINILM_TOKENIZER]
        tokenizer = fetch(MINILM_TOKENIZER, downloads)
    elif recipe.text:
        tokenizer = folder / "tokenizer.json"
        if not tokenizer.exists():
            tokenizer.write_text(word_tokenizer(recipe.input).to_str(), encoding="utf-8")
    if recipe.audio and recipe.audio.is_published:
        used.append(YAMNET)
    if recipe.fusion == "early":  # has no encoders that could start from weights
        used = [weights for weights in used if weights is MINILM_TOKENIZER]
    return Design(spec, tokenizer, tuple(source_of(weights) for weights in used))


def build_model(recipe: TrainRecipe, made: Design, classes: int, downloads: Path) -> PackedModel:
    """The model before training; the same for the same seed.

    Args:
        recipe: encoders, fusion, seed.
        made: result of `design`.
        classes: labels.
        downloads: where published weights are kept.
    """
    torch.manual_seed(recipe.seed)
    words = Tokenizer.from_file(str(made.tokenizer)).get_vocab_size() if made.tokenizer else 0
    if recipe.fusion == "early":
        return EarlyFusion(made.spec, classes, words)
    encoders: dict[Modality, Encoder] = {}
    if recipe.image:
        encoders["image"] = _image(recipe.image, downloads)
    if recipe.text:
        encoders["text"] = _text(recipe.text, words, downloads)
    if recipe.audio:
        encoders["audio"] = _audio(recipe.audio, downloads)
    for modality, encoder in encoders.items():
        wanted = getattr(recipe, modality)
        if wanted.start:
            load_encoder(encoder, modality, Path(wanted.start) / BEST)
        if wanted.frozen:
            encoder.eval().requires_grad_(False)
    dims = [encoder.dim for encoder in encoders.values()]
    head = SubsetHead(dims, classes) if recipe.fusion == "late" else GatedFusion(dims, classes)
    return FusedModel(encoders, head)


def fold_norms(model: PackedModel) -> None:
    """Fold batch norms, as they are in eval mode, into the convolutions before them, in place."""
    for module in list(model.modules()):
        if callable(fold := getattr(module, "fold_norms", None)):
            fold()


def frozen_modalities(recipe: TrainRecipe) -> tuple[Modality, ...]:
    """Modalities whose encoder is frozen, so that it need not be run in each epoch."""
    return tuple(m for m in recipe.modalities if getattr(recipe, m).frozen)


@torch.no_grad()
def start_gains(model: PackedModel, recipe: TrainRecipe, batches: Iterable[Batch]) -> None:
    """Set the gains of a late fusion so that all features have one scale, without which it learns slowly.

    Emoji: MiniLM's features are of length 1, EfficientNet-Lite's of about 17; the accuracy from a word
    alone was .36 without it and .56 with it.

    Features of an encoder that starts untrained will change, so its gain stays 1.

    Args:
        model: other fusions are left alone.
        recipe: says which encoders were trained before.
        batches: a few, to see how large features are.
    """
    if not isinstance(model, FusedModel) or not isinstance(model.head, SubsetHead):
        return
    model.eval()
    squares, counts = torch.zeros(len(model.dims)), torch.zeros(len(model.dims))
    for batch in batches:
        encoded, present = model.encode(batch.feeds, batch.known), batch.feeds["present"]
        for column, values in enumerate(encoded.values()):
            there = present[:, column]
            squares[column] += values[there].square().mean(dim=1).sum()
            counts[column] += there.sum()
    was_trained = torch.tensor([m in trained_before(recipe) for m in model.modalities])
    scale = torch.where(was_trained, (squares / counts.clamp(min=1)).sqrt(), 0.0)
    model.head.gain.copy_(torch.where(scale > 0, 1 / scale, 1.0).expand_as(model.head.gain))


def trained_before(recipe: TrainRecipe) -> set[Modality]:
    """Modalities whose encoder starts from trained weights."""
    found = {m for m in recipe.modalities if getattr(recipe, m).pretrained or getattr(recipe, m).start}
    if recipe.audio and not recipe.audio.is_published and not recipe.audio.start:
        found.discard("audio")
    return found


def parameter_groups(model: PackedModel, recipe: TrainRecipe) -> list[dict[str, object]]:
    """Parameters with their learning rates: those that were trained before learn more slowly.

    Vectors (biases, norms) have no weight decay.
    """
    before = trained_before(recipe)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        _, _, rest = name.partition("encoders.")
        was_trained = rest.partition(".")[0] in before or bool(recipe.start)
        rate = recipe.learning_rate * (recipe.pretrained_rate if was_trained else 1.0)
        decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]


def _image(wanted: ImageModel, downloads: Path) -> Encoder:
    encoder = EfficientNetLite(depth=wanted.depth)
    if wanted.pretrained:
        published = EfficientNetLite()
        published.load_checkpoint(torch.load(fetch(EFFICIENTNET_LITE0, downloads), weights_only=True))
        encoder.inherit(published)
        encoder.fold_norms()  # frozen; without their gradients a step takes .7 of the time
        encoder.requires_grad_(True)  # folding added biases, which are not trained
    return encoder


def _text(wanted: TextModel, words: int, downloads: Path) -> Encoder:
    weights = load_file(fetch(MINILM, downloads)) if wanted.pretrained else {}
    if wanted.encoder == "small":
        small = SmallText(words)
        if weights:
            small.inherit(weights["embeddings.word_embeddings.weight"])
        return small
    encoder = MiniLM(words)
    if weights:
        encoder.load_checkpoint(weights)
    return encoder


def _audio(wanted: AudioModel, downloads: Path) -> Encoder:
    if wanted.encoder == "small":
        return SmallSound()
    encoder = YAMNet()
    if wanted.pretrained:
        encoder.load_convolutions(yamnet_convolutions(fetch(YAMNET, downloads)))
    return encoder
