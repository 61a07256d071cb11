"""The YAML file of `mmray bundle import`: the parts of a model. Never imports torch.

Exactly one of `graph` (one fused ONNX graph), `encoders` (an ONNX graph for each modality) and `transformers`
(local directories). Paths are relative to the file; `examples` are resolved like a run's input.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mmray.config import explain, read_yaml
from mmray.errors import ConfigError
from mmray.importing.files import check_fetched
from mmray.preprocess.spec import PreprocessSpec
from mmray.schema import MODALITIES, Modality

#: Axes of an encoder's input: N rows; H x W pixels of C channels; F frames of K mel bins; 1 a single channel.
Layout = Literal["NHWC", "NCHW", "NFK", "NKF", "N1FK", "N1KF"]

#: Supported model directories: model_type in config.json, and the class in `transformers`.
IMAGE_TEXT = {"clip": "CLIPModel", "siglip": "SiglipModel"}
AUDIO = {"clap": "ClapModel", "audio-spectrogram-transformer": "ASTModel"}

#: mean: over tokens without padding, or over all places; first: the first token.
Pool = Literal["mean", "first"]

Prompts = Annotated[tuple[str, ...], Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EncoderFile(_Part):
    """An ONNX graph that turns the rows of one modality into embeddings [N, D]."""

    graph: Path
    inputs: dict[str, str] = {}  # input_ids, attention_mask: the graph's names, if different
    output: str | None = None  # None: the only output
    pool: Pool | None = None  # how to pool vectors of tokens or places; None: the output is an embedding
    layout: Layout | None = None  # of pixels or log-mel; None: taken from the graph's shape
    scale: float = 1.0  # pixels and log-mel become (x * scale - mean) / std
    mean: tuple[float, ...] = (0.0,)  # one, or one a channel
    std: tuple[float, ...] = (1.0,)
    pad_to: int | None = Field(None, ge=1)  # tokens of every text; None: taken from the graph's shape
    pad_id: int = Field(0, ge=0)  # token id of padding
    positions_from: int | None = Field(None, ge=0)  # first of position_ids, if the graph takes them

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, int | float) else value


class EncoderFiles(_Part):
    """An encoder for each modality that the model takes."""

    image: EncoderFile | None = None
    text: EncoderFile | None = None
    audio: EncoderFile | None = None

    @property
    def given(self) -> dict[Modality, EncoderFile]:
        """The encoders that are given."""
        found = {m: getattr(self, m) for m in MODALITIES}
        return {m: encoder for m, encoder in found.items() if encoder}


class Directories(_Part):
    """Local directories of the `transformers` package."""

    image_text: Path | None = None  # CLIP or SigLIP
    audio: Path | None = None  # CLAP or Audio Spectrogram Transformer

    @model_validator(mode="after")
    def _not_empty(self) -> Directories:
        if not (self.image_text or self.audio):
            raise ValueError("give image_text or audio")
        return self


class Description(_Part):
    """A model in pieces."""

    # Parts
    graph: Path | None = None
    encoders: EncoderFiles | None = None
    head: Path | None = None  # of encoders: .onnx, or weights: .safetensors, .npz; None: features only
    transformers: Directories | None = None

    # Everything else
    preprocessing: PreprocessSpec | None = None
    labels: tuple[str, ...] | Path = ()  # a list, or a file with one a line; none: features only
    prompts: dict[str, Prompts] = {}  # of transformers: texts that describe each label
    tokenizer: Path | None = None
    licence: str = "not stated"  # of the weights
    examples: tuple[str, ...] = ()  # shards for the golden inputs; none: synthetic records

    @field_validator("examples", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("prompts", mode="before")
    @classmethod
    def _one_prompt_is_a_list(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {label: (prompt,) if isinstance(prompt, str) else prompt for label, prompt in value.items()}

    @model_validator(mode="after")
    def _one_kind(self) -> Description:
        kinds = [name for name in ("graph", "encoders", "transformers") if getattr(self, name)]
        if len(kinds) != 1:
            raise ValueError(f"give exactly one of graph, encoders and transformers, not {kinds or 'none'}")
        fitting = {
            "graph": {"preprocessing", "labels", "tokenizer"},
            "encoders": {"preprocessing", "labels", "tokenizer", "head"},
            "transformers": {"prompts"},
        }[kinds[0]]
        for name in ("preprocessing", "labels", "tokenizer", "head", "prompts"):
            if getattr(self, name) and name not in fitting:
                raise ValueError(
                    f"{name} does not go with {kinds[0]}; that takes {', '.join(sorted(fitting))}"
                )
        if kinds[0] != "transformers" and not self.preprocessing:
            raise ValueError(f"{kinds[0]} needs `preprocessing`: describe what the model was trained with")
        if self.encoders and self.preprocessing:
            have, described = tuple(self.encoders.given), self.preprocessing.modalities
            if have != described:
                raise ValueError(f"encoders are of {have}, but preprocessing describes {described}")
        if self.encoders and bool(self.head) != bool(self.labels):
            raise ValueError("a head needs labels, and labels need a head; leave out both for features only")
        return self


def read_description(path: Path) -> Description:
    """Read and check the file; paths in it become absolute or relative to the working directory.

    Raises:
        ConfigError: names the file, the key, and what is wrong.
    """
    values = read_yaml(path)
    try:
        description = Description.model_validate(values)
    except ValidationError as e:
        if not e.errors()[0]["loc"]:  # of the whole
            raise ConfigError(f"{path}: {e.errors()[0]['ctx']['error']}") from e
        raise ConfigError(explain(e, Description, str(path))) from e
    described: Description = _below(description, path.parent)
    return described


def read_labels(description: Description) -> tuple[str, ...]:
    """The labels, read from their file if one is named.

    Raises:
        ConfigError: it cannot be read.
        ModelError: the file is something else, such as a Git LFS pointer.
    """
    if not isinstance(description.labels, Path):
        return description.labels
    return labels_in(description.labels)


def labels_in(file: Path) -> tuple[str, ...]:
    """The labels in a file, one a line.

    Raises:
        ConfigError, ModelError: as `read_labels`.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{file}: cannot read the labels: {e}") from e
    check_fetched(file)
    return tuple(line.strip() for line in lines if line.strip())


def _below(part: Any, folder: Path) -> Any:  # noqa: ANN401  (models, paths and other values)
    """The same values with paths relative to the folder."""
    if isinstance(part, Path):
        return folder / part.expanduser()
    if isinstance(part, BaseModel):
        changed = {name: _below(getattr(part, name), folder) for name in type(part).model_fields}
        return part.model_copy(update=changed)
    return part
