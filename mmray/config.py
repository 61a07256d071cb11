"""The run's configuration: one YAML file, refined by `--set key=value`, checked once at the edge."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from mmray.align import AlignSpec
from mmray.confidence import Abstain
from mmray.errors import ConfigError
from mmray.preprocess.spec import Limits
from mmray.schema import MODALITIES, Modality
from mmray.sources.options import (
    EXTENSIONS,
    Captions,
    FetchOptions,
    FileOptions,
    Interleaved,
    KeySplit,
)
from mmray.unread import OnForeignText, OnUnread

Settings = TypeVar("Settings", bound=BaseModel)


class Extensions(BaseModel):
    """Which members of a record are its image, text, audio and metadata, by file extension."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: tuple[str, ...] = EXTENSIONS["image"]
    text: tuple[str, ...] = EXTENSIONS["text"]
    audio: tuple[str, ...] = EXTENSIONS["audio"]
    meta: tuple[str, ...] = EXTENSIONS["meta"]


class Columns(BaseModel):
    """Which columns (of Parquet, Arrow, CSV), fields (of JSONL) or features (of TFRecord) hold what.

    One name or several, the first that is there counts; none: the built-in names. Case does not matter.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()
    meta: tuple[str, ...] = ()
    key: tuple[str, ...] = ()

    @field_validator("*", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("*")
    @classmethod
    def _lower(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name.lower() for name in value)


class LmdbOptions(BaseModel):
    """How LMDBs are read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    database: str | None = Field(None, min_length=1)  # by its name; None: the main one


class CanaryOptions(BaseModel):
    """A second bundle that answers a share of the records as well, to be compared with the first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: str
    variant: str = "auto"
    share: float = Field(0.01, gt=0, le=1)


class RunConfig(BaseModel):
    """What to run over what, and how. Every key of the YAML file is one of these fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # What
    input: tuple[str, ...] = Field(min_length=1)
    bundle: str
    output: str
    variant: str = "auto"
    provider: Literal["auto", "cpu", "cuda", "tensorrt", "openvino"] = "auto"
    modalities: tuple[Modality, ...] | None = Field(None, min_length=1)  # None: all that the model takes
    align: AlignSpec | None = None  # aligns audio and text with the image; None: they are used as they are

    # Output
    scores: bool = True  # the score of every class, not only the best
    features: bool = False  # the fused features, float16
    #: Share of the labels that may be wrong: without a score that is high enough there is none, and column
    #: `abstained` says so. auto: as the bundle asks; never, or null: every record gets a label.
    abstain: Abstain = "auto"
    #: Copied to columns meta_<name>: fields of the JSON member, small members as "cls", columns, features.
    carry: tuple[str, ...] = ()

    report: bool = True  # report.html at the end (docs/report.md)

    # Of a cascade
    shadow: float = Field(0.05, ge=0, le=1)  # share of the early answers that are compared with full ones
    #: If they differ too often, or records are unlike those of the tune split. stop: disables early exits.
    on_shift: Literal["warn", "stop"] = "warn"
    verify_all: bool = False  # also decode what early answers do not need, so that damage is found

    canary: CanaryOptions | None = None  # on CPUs: topology fused

    # Bad records
    on_damaged: Literal["reject", "mask"] = "reject"
    #: Unread input is counted. If a record would lose a modality by it, that modality is damaged. reject: the
    #: record is rejected in any case; fail: the run ends.
    on_unread: OnUnread = "warn"
    #: A text in a script or language that the model does not read is counted; mask: it counts as missing.
    foreign_text: OnForeignText = "keep"
    max_reject_rate: float = Field(0.05, ge=0, le=1)  # beyond it the run ends with exit 1; nothing is lost
    limits: Limits = Limits()
    extensions: Extensions = Extensions()
    key_split: KeySplit = "first"  # dot of a file name that ends the key
    columns: Columns = Columns()
    files: FileOptions = FileOptions()
    fetch: FetchOptions = FetchOptions()
    captions: Captions = "first"  # of several in one column or feature; join: all of them, in one text
    lmdb: LmdbOptions = LmdbOptions()
    interleaved: Interleaved = "strict"  # scattered members of a tar's record: reject, or regroup
    regroup_rows: int = Field(256, ge=2, le=100_000)  # records that are open at once meanwhile

    # How
    topology: Literal["auto", "fused", "split"] = "auto"
    actors: int | None = Field(None, ge=1)  # with a model each; None: one for each CPU (fused) or GPU (split)
    autoscaling: bool = False  # the cluster grows on demand, so `actors` may be more than fit on it now
    batch_rows: int | None = Field(None, ge=1, le=4096)  # records of one inference; None: by their size
    block_rows: int = Field(64, ge=1, le=65_536)  # records that travel together
    block_bytes: int = Field(32 << 20, ge=1 << 16)
    part_rows: int | None = Field(None, ge=1)  # None: about a minute of one actor's work
    part_seconds: float = Field(60.0, gt=0)  # an actor closes a part after this time at the latest (fused)
    #: Seconds to wait for the end of another run on the same output. 0: exit 2 at once.
    lease_wait_s: float = Field(0.0, ge=0)
    stall_s: float = Field(900.0, gt=0)  # without a row: then a worker ends itself, the run ends with exit 3

    @field_validator("input", "carry", "modalities", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("modalities")
    @classmethod
    def _in_order(cls, value: tuple[Modality, ...] | None) -> tuple[Modality, ...] | None:
        return value and tuple(m for m in MODALITIES if m in value)


def load_config(
    path: Path | None, overrides: Mapping[str, Any], assignments: Iterable[str] = ()
) -> RunConfig:
    """Read the YAML file, apply the command line and validate the result.

    Args:
        path: YAML file, or None.
        overrides: values of command-line options; None means not given.
        assignments: ``key=value`` or ``limits.audio_s=60``, values in YAML.

    Raises:
        ConfigError: names the file, the key, and the nearest key that exists.
    """
    values = read_yaml(path) if path else {}
    file_keys = set(values)
    values |= {key: value for key, value in overrides.items() if value is not None}
    file_keys -= _assign_all(values, assignments)
    try:
        return RunConfig.model_validate(values)
    except ValidationError as e:
        first = _first(e)
        in_file = path is not None and first["loc"][0] in file_keys
        option = str(first["loc"][0]).replace("_", "-")
        remedy = f"; give it there or as --{option}" if first["type"] == "missing" else ""
        raise ConfigError(explain(e, RunConfig, str(path) if in_file else "command line") + remedy) from e


def with_assignments(
    model: type[Settings], values: dict[str, Any], assignments: Iterable[str], where: str = "command line"
) -> Settings:
    """Settings of another type than a run's, from the command line.

    Args:
        model: their type.
        values: of some keys.
        assignments: as in `load_config`; they override values.
        where: source of the values, for messages.

    Raises:
        ConfigError: names the key, and the nearest key that exists.
    """
    _assign_all(values, assignments)
    try:
        return model.model_validate(values)
    except ValidationError as e:
        raise ConfigError(explain(e, model, where)) from e


def read_yaml(path: Path) -> dict[str, Any]:
    """Keys and values of a YAML file.

    Raises:
        ConfigError: it cannot be read, or has other contents.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: cannot read this config: {getattr(e, 'strerror', None) or e}") from e
    values = _parse_yaml(text, str(path))
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{path}: a config is a mapping of keys to values")
    return values


def _parse_yaml(text: str, where: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ConfigError(f"{where}: not YAML: {' '.join(str(e).split())}") from e


def _assign_all(values: dict[str, Any], assignments: Iterable[str]) -> set[str]:
    """Apply ``key=value`` to values, in place; returns the keys, for a dotted one its first part."""
    keys = set()
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: expected key=value")
        _assign(values, key, _parse_yaml(text, f"--set {key}"))
        keys.add(key.partition(".")[0])
    return keys


def _assign(values: dict[str, Any], key: str, value: object) -> None:
    """Set a possibly dotted key, as `limits.audio_s`."""
    *outer, last = key.split(".")
    for name in outer:
        inner = values.get(name)
        values[name] = dict(inner) if isinstance(inner, dict) else {}
        values = values[name]
    values[last] = value


def explain(failure: ValidationError, model: type[BaseModel], where: str) -> str:
    """The first error, in one line.

    Args:
        failure: from pydantic.
        model: that was validated.
        where: the file, or another source of the values.
    """
    first = _first(failure)
    location = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])
        known = _model_at(model, first["loc"][:-1]).model_fields
        near = difflib.get_close_matches(name, known, n=1)
        place = "".join(f"{part}." for part in first["loc"][:-1])
        hint = f"did you mean '{place}{near[0]}'?" if near else f"known: {', '.join(known)}"
        return f"{where}: unknown key '{location}' ({hint})"
    if first["type"] == "missing":
        return f"{where}: '{location}' is missing"
    return f"{where}: '{location}': {first['msg'].lower()}, not {first['input']!r}"


def _first(failure: ValidationError) -> ErrorDetails:
    """The error to report: a misspelt key before the missing key that it replaces."""
    found = failure.errors()
    return next((error for error in found if error["type"] == "extra_forbidden"), found[0])


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    """The model of the values at a place inside another model; positions in lists are ignored."""
    for name in location:
        if isinstance(name, str):
            model = _model_in(model.model_fields[name].annotation) or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401  (annotations have no common type)
    """The model in an annotation such as `Limits | None` or `tuple[Step, ...]`."""
    if parts := get_args(annotation):
        return next((found for part in parts if (found := _model_in(part))), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
