"""The recipe of `mmray optimize`: a YAML file with a list of steps, each of which makes one variant."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mmray.bundle import FP32
from mmray.config import explain, read_yaml
from mmray.errors import ConfigError
from mmray.evaluation import Split
from mmray.variants.cascades.policy import WHOLE, Budget
from mmray.variants.gate import Thresholds
from mmray.variants.quantize.histogram import Method


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rows(_Model):
    """How many records of each split are used, at most; they are spread evenly over the split."""

    train: int = Field(256, ge=1)  # for ranges of static int8; read as they are needed
    tune: int = Field(1500, ge=1)  # for every choice; held in memory, about 0.2 MB each
    test: int = Field(5000, ge=1)  # for the verdict; the same

    def as_dict(self) -> dict[Split, int]:
        """By split."""
        return {"train": self.train, "tune": self.tune, "test": self.test}


class Half(_Model):
    """Weights and activations as float16."""

    mixed: bool = False  # leave as few blocks in float32 as the gate needs, the most sensitive first

    precision: ClassVar[str] = "fp16"
    provider: ClassVar[Literal["any"]] = "any"

    @property
    def title(self) -> str:
        return "fp16"


class Int8(_Model):
    """Weights and activations as int8."""

    # Scales of activations: from each of their rows, or from calibration. "best" takes for each modality one
    # of them, or float: the combination that is fastest on this machine and passes.
    method: Literal["best", "dynamic", "static"] = "best"
    flavour: Literal["cpu", "tensorrt"] = "cpu"  # of static
    ranges: Method = "percentile"  # of static and best: how calibration chooses them
    mixed: bool = False  # leave as few blocks in float as the gate needs, the most sensitive first

    precision: ClassVar[str] = "int8"

    @property
    def title(self) -> str:
        return "int8-tensorrt" if self.flavour == "tensorrt" else f"int8-{self.method}"

    @property
    def provider(self) -> Literal["any", "tensorrt"]:
        return "tensorrt" if self.flavour == "tensorrt" else "any"


class Given(_Model):
    """A graph made elsewhere, with the bundle's inputs and outputs, as by training for int8."""

    graph: str  # ONNX file
    precision: Literal["fp32", "fp16", "int8"] = "int8"

    mixed: ClassVar[bool] = False
    provider: ClassVar[Literal["any"]] = "any"
    title: ClassVar[str] = "given"


class CascadeStep(_Model):
    """A variant's graph cut into stages, of which the early ones answer the easy records."""

    of: str = "auto"  # the variant that is cut; "auto": the fastest that passed, on this machine
    accuracy_loss: float | None = Field(None, ge=0, lt=1)  # accuracy below the reference's, at most
    disagreement: float | None = Field(None, gt=0, lt=1)  # or: share of decisions unlike the full model's
    reference: str = WHOLE  # of accuracy_loss: the full model, or only "image", "image+text", …
    confidence: float = Field(0.95, ge=0.8, lt=1)  # of the one-sided bound
    half_images: bool = True  # whether a stage may look at images of half their height and width first

    mixed: ClassVar[bool] = False
    precision: ClassVar[str] = "fp32"
    provider: ClassVar[Literal["any"]] = "any"
    title: ClassVar[str] = "cascade"

    @property
    def budget(self) -> Budget:
        return Budget(self.accuracy_loss, self.disagreement, self.reference, self.confidence)

    def thresholds(self, general: Thresholds) -> Thresholds:
        """Thresholds on test: its own budget overall, none for single slices."""
        return general.model_copy(
            update={
                "agreement": 0.0 if self.disagreement is None else 1 - self.disagreement,
                "accuracy_loss": 1.0 if self.accuracy_loss is None else self.accuracy_loss,
                "slice_agreement": 0.0,
                "slice_accuracy_loss": 1.0,
                "divergence": math.inf,
                "confidence": self.confidence,
            }
        )


class Step(_Model):
    """Exactly one kind of step, and the name of its variant."""

    half: Half | None = None
    int8: Int8 | None = None
    given: Given | None = None
    cascade: CascadeStep | None = None
    name: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9._-]*$")

    @field_validator("half", "int8", "given", "cascade", mode="before")
    @classmethod
    def _nothing_is_the_default(cls, value: object) -> object:
        return {} if value is None else value  # `for people who write `- half:`

    @property
    def kinds(self) -> dict[str, Half | Int8 | Given | CascadeStep]:
        """The options of the step, by the YAML file's key."""
        kinds = ("half", "int8", "given", "cascade")
        return {k: v for k in kinds if (v := getattr(self, k)) is not None}

    @property
    def kind(self) -> Half | Int8 | Given | CascadeStep:
        return next(iter(self.kinds.values()))

    @property
    def variant(self) -> str:
        """Name of the variant that it makes."""
        return self.name or self.kind.title + ("-mixed" if self.kind.mixed else "")

    @property
    def how(self) -> dict[str, str]:
        """For the manifest: the kind of step and every option."""
        (key,) = self.kinds
        return {"step": key} | {name: str(value).lower() for name, value in self.kind}


class VariantRecipe(_Model):
    """Variants to make, from which bundle, and their thresholds."""

    input: tuple[str, ...] = Field(min_length=1)  # shards with records of all splits
    rows: Rows = Rows()
    steps: tuple[Step, ...] = Field(min_length=1)
    thresholds: Thresholds = Thresholds()
    batch_rows: int = Field(8, ge=1, le=4096)  # of the job: for judging, and for one of the two latencies
    timing_rounds: int = Field(2, ge=0)  # processes in which each graph is timed and weighed; 0: not at all
    abstain: float | None = Field(None, gt=0, lt=1)  # risk of the bundle's answers, see `mmray.confidence`
    keep_failed: bool = False  # also write the graphs that failed, to inspect them

    @field_validator("input", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


def load_recipe(path: Path) -> VariantRecipe:
    """Read a recipe.

    Raises:
        ConfigError: names the file, the key, and the nearest key that exists.
    """
    try:
        recipe = VariantRecipe.model_validate(read_yaml(path))
    except ValidationError as e:
        raise ConfigError(explain(e, VariantRecipe, str(path))) from e
    for fault in _faults(recipe):
        raise ConfigError(f"{path}: {fault}")
    return recipe


def _faults(recipe: VariantRecipe) -> Iterator[str]:
    """What the types do not say."""
    seen = {FP32, "auto"}
    for i, step in enumerate(recipe.steps):
        where = f"steps.{i}"
        if len(step.kinds) != 1:
            kinds = "half, int8, given and cascade"
            yield f"'{where}': a step is exactly one of {kinds}, not {len(step.kinds)} of them"
        elif step.variant in seen:
            yield f"'{where}': there is a variant {step.variant!r} already; give this one another `name`"
        elif step.int8 and step.int8.method != "static" and step.int8.flavour == "tensorrt":
            yield f"'{where}.int8': TensorRT takes static int8 only; set method: static"
        elif step.int8 and step.int8.method == "best" and step.kind.mixed:
            yield f"'{where}.int8': best has no mixed form; set method: static, or leave `mixed` out"
        elif step.given and not Path(step.given.graph).is_file():
            yield f"'{where}.given': {step.given.graph} does not exist; train that recipe first"
        elif step.cascade and (step.cascade.accuracy_loss is None) == (step.cascade.disagreement is None):
            yield f"'{where}.cascade': give exactly one of accuracy_loss and disagreement"
        else:
            seen.add(step.variant)
