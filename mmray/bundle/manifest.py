"""manifest.json: the description of a bundle, and the names of its other files."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from mmray.preprocess.spec import PreprocessSpec
from mmray.schema import Modality

FORMAT = 1
MANIFEST, TOKENIZER, GOLDEN, SCORECARD = "manifest.json", "tokenizer.json", "golden.npz", "scorecard.json"
RECORDS = "golden.parquet"  # raw records of some rows of golden.npz; older bundles have none
FP32 = "fp32"  # the reference variant: the others are made from it and judged by it


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
    """The exit rule of a cascade for records with one set of modalities among those looked at."""

    temperature: float = 1.0  # its logits are divided by it before the softmax
    threshold: float  # minimum calibrated confidence; above 1 no record exits


class CascadeStage(_Entry):
    """A graph that answers from its own modalities and outputs of earlier stages."""

    file: str  # relative to the bundle
    modalities: tuple[Modality, ...]  # modalities that it adds to those of earlier stages
    exits: dict[
        str, Exit
    ] = {}  # by modalities, as "text+audio"; empty in the last stage, which answers all records


class Cascade(_Entry):
    """Stages in order, and how often an early answer may differ from that of the full graph."""

    stages: tuple[CascadeStage, ...] = Field(min_length=2)
    disagreement: float  # upper bound of their share, from the records that the exits were chosen with


class Selective(_Entry):
    """A score threshold for abstaining, so that few answers are wrong: found on the tune split."""

    risk: float  # maximum share of wrong answers
    threshold: float  # minimum calibrated score
    coverage: float  # share of the records that were answered
    bound: float  # one-sided upper bound of the share of wrong answers


class Variant(_Entry):
    """One compiled form of the model."""

    file: str  # relative to the bundle
    precision: str = FP32
    parent: str | None = None  # the variant that it was made from and judged by
    provider: Literal["any", "tensorrt"] = "any"  # its target; "any" includes the CPU
    how: dict[str, str] = {}  # the step that made it
    cascade: Cascade | None = None  # stages that answer the easy records; `file` is then the full graph
    # Tolerance of golden outputs on other machines, as a share of the largest value or of 1: their kernels
    # sum in another order. Wrong results differ far more.
    golden_tolerance: float = 1e-3
    # Divisors of the logits, by the modalities that an answer is made from, as "image+text"; 1 for a missing
    # set. A cascade's early answers use those of their exits.
    temperatures: dict[str, float] = {}
    selective: tuple[Selective, ...] = ()  # the risks that could be shown

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
    abstain: float | None = None  # default risk for abstaining; None: none
    sources: list[Source] = []
    origin: dict[str, str] = {}  # inputs and options that it was built from
    parents: dict[str, str] = {}  # digest of each bundle that it was made from, to its name
    files: dict[str, str] = Field(description="relative path of every other file: its sha256")
