"""Local `transformers` directories → a bundle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import transformers

from mmray.bundle import Bundle, Source, check_replaceable
from mmray.errors import ConfigError
from mmray.importing.card import Card, source_of
from mmray.importing.description import Description
from mmray.importing.directories import Tower, read_audio, read_image_text
from mmray.importing.finish import Say, log
from mmray.importing.from_torch import import_torch
from mmray.importing.zero_shot import prompt_head
from mmray.models.fused import FusedModel
from mmray.preprocess.spec import PreprocessSpec
from mmray.schema import Modality


def import_transformers(description: Description, output: Path, *, say: Say = log.info) -> Bundle:
    """Make a bundle from local `transformers` directories.

    Args:
        description: has `transformers`, and optionally `prompts`, which become the labels.
        output: the bundle's directory; its name becomes the bundle's.
        say: gets progress messages.

    Raises:
        ConfigError: the description has no directories.
        ModelError: a directory cannot be read, or its preprocessing is not one that mmray has.
        EngineError: the exported graph is not equal to the model.
        BundleError: `output` exists and is not a bundle.
    """
    check_replaceable(output)
    if description.transformers is None:
        raise ConfigError("describe transformers: directories of a model")
    towers: dict[Modality, Tower] = {}
    sources: list[Source] = []
    with _quiet():
        if directory := description.transformers.image_text:
            towers |= read_image_text(directory)
            sources += _sources(directory, description.licence)
        if directory := description.transformers.audio:
            towers["audio"] = read_audio(directory)
            sources += _sources(directory, description.licence)
        dims = {modality: tower.encoder.dim for modality, tower in towers.items()}
        say(f"read {', '.join(f'{modality} ({dim} features)' for modality, dim in dims.items())}")
        spaces = [tower.space for tower in towers.values()]
        head = None
        if description.prompts:
            head = prompt_head(list(dims.values()), spaces, description.prompts)
            silent = [m for m, tower in towers.items() if not tower.space]
            if silent:
                say(f"{', '.join(silent)}: has no text encoder, so it does not affect the scores of labels")
        card = Card(
            spec=PreprocessSpec.model_validate({m: tower.spec for m, tower in towers.items()}),
            labels=tuple(description.prompts),
            tokenizer=next((tower.tokenizer for tower in towers.values() if tower.tokenizer), None),
            sources=tuple(sources),
            origin={
                "imported": json.dumps(
                    description.model_dump(mode="json", include={"transformers", "prompts"})
                )
            },
            examples=description.examples,
        )
        model = FusedModel({m: tower.encoder for m, tower in towers.items()}, head)
        return import_torch(model, card, output, say=say)


def _sources(directory: Path, licence: str) -> list[Source]:
    return [source_of(file, licence) for file in sorted(directory.glob("*.safetensors"))]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's progress bars and warnings: everything relevant is checked here."""
    said, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(said)
        if bars:
            transformers.logging.enable_progress_bar()
