"""manifest.json: what a bundle consists of, and the names of its other files."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from mmray.preprocess.spec import PreprocessSpec
from mmray.schema import Modality

FORMAT = 1
MANIFEST, TOKENIZER, GOLDEN, SCORECARD = "manifest.json", "tokenizer.json", "golden.npz", "scorecard.json"
RECORDS = "golden.parquet"  # what some rows of golden.npz were made of; older bundles have none
FP32 = "fp32"  # the variant that is right by definition: the others are made from it and judged by it


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Entry):
    """Where weights came from."""

    name: str
    version: str
    file: str
    sha256: str
    licence: str


class Exit(_Entry):
    """When a record leaves a cascade, for those with the same modalities of all that were looked at."""

    temperature: float = 1.0  # its logits are divided by it before the softmax
    threshold: float  # least calibrated confidence; above 1 none leaves


class CascadeStage(_Entry):
    """A graph that answers from its own modalities and what earlier stages found in theirs."""

    file: str  # relative to the bundle
    modalities: tuple[Modality, ...]  # that it takes, beside those of the stages before it
    exits: dict[str, Exit] = {}  # by modalities, as "text+audio"; empty in the last stage, which answers all


class Cascade(_Entry):
    """Stages in order, and how often an early answer may differ from that of the whole graph."""

    stages: tuple[CascadeStage, ...] = Field(min_length=2)
    disagreement: float  # share of early answers, at most, by the records that the exits were chosen with


class Variant(_Entry):
    """One compiled form of the model."""

    file: str  # relative to the bundle
    precision: str = FP32
    parent: str | None = None  # the variant that it was made from and judged by
    provider: Literal["any", "tensorrt"] = "any"  # what it is made for; "any" includes the CPU
    how: dict[str, str] = {}  # the step that made it
    cascade: Cascade | None = None  # stages that answer the easy records; `file` is then the whole graph
    # How far golden outputs may be off elsewhere, as a share of the largest value or of 1: kernels of other
    # machines add in another order. A wrong one is off by far more.
    golden_tolerance: float = 1e-3

    @property
    def files(self) -> tuple[str, ...]:
        """All its graphs."""
        stages = self.cascade.stages if self.cascade else ()
        return (self.file, *(stage.file for stage in stages))


class Manifest(_Entry):
    """manifest.json."""

    format: int = FORMAT
    name: str
    labels: list[str]
    features: int  # width of the fused features
    preprocessing: PreprocessSpec
    variants: dict[str, Variant]
    sources: list[Source] = []
    origin: dict[str, str] = {}  # what it was built from: inputs, options
    parents: dict[str, str] = {}  # digest of each bundle that it was made from: its name
    files: dict[str, str] = Field(description="relative path of every other file: its sha256")
