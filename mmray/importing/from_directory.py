"""Imports a model given its directory or its name on the Hugging Face hub. Never imports torch."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

from mmray.errors import ConfigError, ModelError, one_line
from mmray.importing.description import (
    AUDIO,
    IMAGE_TEXT,
    Description,
    Directories,
    labels_in,
)
from mmray.importing.files import check_fetched

#: Default prompts: Radford et al. 2021, arXiv:2103.00020, section 3.1.4; for sounds Elizalde et al. 2022,
#: arXiv:2206.04769.
_IMAGE_PROMPT, _AUDIO_PROMPT = "a photo of a {}", "this is a sound of {}"
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")  # files of a directory that are read


def describe_directory(
    directory: Path, labels: tuple[str, ...] = (), prompt: str | None = None
) -> Description:
    """The description of a local directory of CLIP, SigLIP, CLAP or AST, as from a YAML file.

    Args:
        directory: as `save_pretrained` writes it.
        labels: of the bundle; none: features only.
        prompt: text that describes a label, with {} in its place; None: the usual one of the model's kind.

    Raises:
        ModelError: the directory has no config.json, or one of another kind of model.
        ConfigError: labels without a text encoder, or a prompt without {} or without labels.
    """
    kind = _kind_of(directory)
    is_audio = kind in AUDIO
    if prompt is not None and (not labels or "{}" not in prompt):
        reason = "has no {} where the label goes" if labels else "says what describes a label: give --labels"
        raise ConfigError(f"--prompt {prompt!r}: {reason}")
    if labels and kind == "audio-spectrogram-transformer":
        raise ConfigError(
            f"{directory}: has no text encoder for labels; leave out --labels for features only, "
            "or train a head on the features: docs/your-model.md"
        )
    template = prompt or (_AUDIO_PROMPT if is_audio else _IMAGE_PROMPT)
    return Description(
        transformers=Directories(**{"audio" if is_audio else "image_text": directory}),
        prompts={label: (template.replace("{}", label),) for label in labels},
    )


def parse_labels(text: str) -> tuple[str, ...]:
    """Labels from a file with one a line, or from the text itself, separated by commas.

    Raises:
        ConfigError: there are none, or one occurs twice; or the file cannot be read.
    """
    if Path(text).is_file():
        labels = labels_in(Path(text))
    elif "," in text:
        labels = tuple(filter(None, map(str.strip, text.split(","))))
    else:
        raise ConfigError(f"--labels {text}: no such file; give a file with a label a line, or A,B,C")
    if not labels:
        raise ConfigError(f"--labels {text}: has no labels; give a file with a label a line, or A,B,C")
    if twice := [label for label, count in Counter(labels).items() if count > 1]:
        raise ConfigError(f"--labels {text}: {twice[0]!r} occurs twice; remove one of them")
    return labels


def is_hub_name(source: str) -> bool:
    """Whether this looks like a model on the hub, such as "openai/clip-vit-base-patch32"; checks no path."""
    return bool(_HUB_NAME.fullmatch(source))


def fetch_from_hub(name: str, endpoint: str | None = None) -> Path:
    """The directory of a model on the hub, downloaded unless it is in the hub's cache.

    Args:
        name: owner and model.
        endpoint: of the hub; None: as HF_ENDPOINT says, else https://huggingface.co.

    Raises:
        ModelError: the download failed; says how to do it by hand.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, endpoint=endpoint, allow_patterns=list(_FILES)))
    except ModuleNotFoundError:
        raise
    except Exception as e:  # the hub's own errors, its HTTP library's, the system's
        folder = f"models/{name.partition('/')[2]}"
        raise ModelError(
            f"{name}: no such directory, and the Hugging Face hub does not give it ({one_line(e)}); "
            f"check the name, or run `hf download {name} --local-dir {folder}` on a machine that reaches the "
            f"hub, and import the directory {folder}"
        ) from e


def _kind_of(directory: Path) -> str:
    """The model type in a directory's config.json."""
    file = directory / "config.json"
    if not file.is_file():
        raise ModelError(f"{directory}: has no config.json; give a directory that save_pretrained(...) wrote")
    check_fetched(file)
    try:
        kind = json.loads(file.read_bytes())["model_type"]
    except (ValueError, KeyError, TypeError) as e:
        raise ModelError(
            f"{file}: has no model_type; give a directory that save_pretrained(...) wrote"
        ) from e
    known = (*IMAGE_TEXT, *AUDIO)
    if kind not in known:
        raise ModelError(
            f"{directory}: is of type {kind!r}; supported are {', '.join(known)}; export others to "
            "ONNX files and describe them in a YAML file: docs/your-model.md"
        )
    return str(kind)
