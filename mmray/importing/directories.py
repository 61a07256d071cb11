"""Reads local `transformers` directories: encoders, the preprocessing of each, and its embedding space.

Reads only safetensors, downloads nothing, and runs only the package's own code.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from mmray.errors import ModelError
from mmray.importing.description import AUDIO, IMAGE_TEXT
from mmray.importing.files import check_fetched
from mmray.importing.load import one_line
from mmray.importing.processors import ast_spec, clap_spec, image_spec, text_spec
from mmray.importing.towers import (
    AstAudio,
    ClapAudio,
    ClapText,
    ClipText,
    ImageTower,
    Model,
    SiglipText,
    clip_end_token,
)
from mmray.importing.zero_shot import Space
from mmray.models.encoder import Encoder
from mmray.preprocess.spec import AudioSpec, ImageSpec, TextSpec
from mmray.preprocess.text import TextTokenizer
from mmray.schema import Modality

_CLAP_POSITIONS = 2  # RoBERTa counts positions from 2
Config = Any  # of transformers, whose attributes no type knows


@dataclass(frozen=True)
class Tower:
    """An encoder with its preprocessing and space."""

    encoder: Encoder
    spec: ImageSpec | TextSpec | AudioSpec
    space: Space | None
    tokenizer: Path | None = None


def read_image_text(directory: Path) -> dict[Modality, Tower]:
    """Towers of CLIP or SigLIP.

    Raises:
        ModelError: the directory cannot be read, or its preprocessing is not one that mmray has.
    """
    model, config = _load(directory, IMAGE_TEXT)
    is_clip = config.model_type == "clip"
    picture, norm = image_spec(directory, config.vision_config.image_size)
    positions = config.text_config.max_position_embeddings
    text, tokenizer = text_spec(directory, positions, clip_end_token(model) if is_clip else None)
    texts: Encoder
    if is_clip:
        picture_dim, texts = config.projection_dim, ClipText(model, config.projection_dim)
    else:
        padding = config.text_config.pad_token_id
        texts = SiglipText(model, config.text_config.projection_size, positions, padding)
        picture_dim = config.vision_config.hidden_size
    tokenize = TextTokenizer(tokenizer, text)
    space = Space(texts, tokenize, model.logit_scale.exp().item())
    return {
        "image": Tower(ImageTower(model, picture_dim, norm), picture, space),
        "text": Tower(texts, text, space, tokenizer),
    }


def read_audio(directory: Path) -> Tower:
    """Tower of CLAP or AST.

    Raises:
        ModelError: the directory cannot be read, or its preprocessing is not one that mmray has.
    """
    model, config = _load(directory, AUDIO)
    if config.model_type != "clap":
        spec, norm = ast_spec(directory)
        _same_size(directory, config, spec)
        return Tower(AstAudio(model, config.hidden_size, norm), spec, None)
    if config.audio_config.enable_fusion:
        raise ModelError(
            f"{directory}: a CLAP model with enable_fusion; mmray supports CLAP only without fusion"
        )
    spec, norm = clap_spec(directory)
    positions = config.text_config.max_position_embeddings - _CLAP_POSITIONS
    text, tokenizer = text_spec(directory, positions, None)
    tokenize = TextTokenizer(tokenizer, text)
    space = Space(ClapText(model, config.projection_dim), tokenize, model.logit_scale_a.exp().item())
    return Tower(ClapAudio(model, config.projection_dim, norm), spec, space)


def _load(directory: Path, kinds: dict[str, str]) -> tuple[Model, Config]:
    """The model of a directory in eval mode, and its config.

    Raises:
        ModelError: the directory is missing, of another kind, without safetensors, or lacks weights.
    """
    if not (directory / "config.json").is_file():  # else the package would look for the name in its cache
        raise ModelError(f"{directory}: has no config.json; give a directory that save_pretrained(...) wrote")
    for file in sorted(directory.iterdir()):
        if file.suffix in (".json", ".safetensors", ".txt", ".model"):
            check_fetched(file)
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(directory, **options)
        if config.model_type not in kinds:
            raise ModelError(f"{directory}: is of type {config.model_type!r}, not {' or '.join(kinds)}")
        model, report = getattr(transformers, kinds[config.model_type]).from_pretrained(
            directory,
            **options,
            use_safetensors=True,
            attn_implementation="eager",  # the others do not export to plain operators
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as e:
        raise ModelError(
            f"{directory}: cannot read this model: {one_line(e)}; it needs config.json and "
            "model.safetensors, which save_pretrained(...) writes"
        ) from e
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{directory}: has no weights for {missing[0]} and {len(missing) - 1} more; download it again"
        )
    return model.eval().requires_grad_(False), config


def _same_size(directory: Path, config: Config, spec: AudioSpec) -> None:
    size = (config.max_length, config.num_mel_bins)
    if size != (spec.patch_frames, spec.mel_bins):
        raise ModelError(
            f"{directory}: the encoder takes {size[0]} frames of {size[1]} mel bins, its extractor gives "
            f"{spec.patch_frames} of {spec.mel_bins}"
        )
