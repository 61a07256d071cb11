"""An opened bundle: its manifest, its parts, and the proof that they are unaltered."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmray.batching import Feeds
from mmray.errors import BundleError
from mmray.preprocess.spec import PreprocessSpec
from mmray.schema import Modality
from mmray.storage import Location, cache_directory, mirror

FORMAT = 1
MANIFEST, TOKENIZER, GOLDEN, SCORECARD = "manifest.json", "tokenizer.json", "golden.npz", "scorecard.json"
EVIDENCE = "evidence.npz"  # answers to records that the model was not trained on; may be missing
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


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. `Bundle.open` checks that its files are there; `verify` that they are unaltered."""

    path: Path
    manifest: Manifest
    digest: str  # sha256 of manifest.json, hex

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Read the manifest of a directory, or of a URL, whose files are then copied to this machine once.

        Raises:
            BundleError: no bundle there, one of another format, or one that lacks files.
        """
        place = Location.parse(path)
        try:
            raw = (place / MANIFEST).read_bytes()
        except OSError as e:
            reason = os.strerror(e.errno) if e.errno else e
            raise BundleError(f"{path}: no bundle there ({MANIFEST}: {reason}); build one first") from e
        try:
            manifest = Manifest.model_validate_json(raw)
        except ValidationError as e:
            first = e.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BundleError(
                f"{place / MANIFEST}: not a manifest of format {FORMAT}: {where}: {first['msg']}"
            ) from e
        if manifest.format != FORMAT:
            raise BundleError(f"{path}: bundle of format {manifest.format}; this mmray reads format {FORMAT}")
        digest = hashlib.sha256(raw).hexdigest()
        root = Path(place.path) if place.is_local else _local_copy(place, manifest, digest)
        for name in manifest.files:
            if not (root / name).resolve().is_relative_to(root.resolve()):
                raise BundleError(f"{place / MANIFEST}: names a file outside the bundle: {name}")
            if not (root / name).is_file():
                raise BundleError(f"{root}: {name} is missing; copy or build the bundle again")
        unlisted = [
            file for v in manifest.variants.values() for file in v.files if file not in manifest.files
        ]
        if unlisted:
            raise BundleError(
                f"{root / MANIFEST}: variant {unlisted[0]} has no checksum; build the bundle again"
            )
        return cls(root, manifest, digest)

    @property
    def spec(self) -> PreprocessSpec:
        return self.manifest.preprocessing

    @property
    def labels(self) -> list[str]:
        return self.manifest.labels

    @property
    def decisive(self) -> str:
        """The output that a prediction is read from."""
        return "scores" if self.labels else "features"

    @property
    def tokenizer(self) -> Path | None:
        return self.path / TOKENIZER if self.spec.text else None

    @property
    def scorecard(self) -> dict[str, Any]:
        scorecard: dict[str, Any] = json.loads((self.path / SCORECARD).read_text())
        return scorecard

    def check_variant(self, name: str) -> None:
        """Refuse a variant that must not be used.

        Raises:
            BundleError: no such variant, one that failed its gate, or one that nobody judged.
        """
        verdict = self._verdicts.get(name, {})
        if verdict.get("passed") is False:
            raise BundleError(
                f"{self.path}: variant {name!r} failed its gate: {verdict.get('reason')}; "
                f"choose from: {', '.join(self.passing())}"
            )
        self.graph(name)
        if name not in self.passing():
            raise BundleError(f"{self.path}: variant {name!r} was never judged; make it by `mmray optimize`")

    def later(self, variant: str) -> tuple[Modality, ...]:
        """Modalities that not every record needs: all but those of a cascade's first stage."""
        cascade = self.manifest.variants[variant].cascade
        return tuple(m for m in self.spec.modalities if cascade and m not in cascade.stages[0].modalities)

    def passing(self) -> list[str]:
        """Names of the variants that may be used: without a parent, or judged by it and passed."""
        verdicts = self._verdicts
        return [
            name
            for name, variant in self.manifest.variants.items()
            if variant.parent is None or verdicts.get(name, {}).get("passed") is True
        ]

    @property
    def _verdicts(self) -> dict[str, dict[str, Any]]:
        """The scorecard's entry of each variant, also of those that failed."""
        verdicts: dict[str, dict[str, Any]] = self.scorecard.get("variants", {})
        return verdicts

    def graph(self, variant: str) -> Path:
        """Path of a variant's ONNX file.

        Raises:
            BundleError: no such variant.
        """
        if variant not in self.manifest.variants:
            known = ", ".join(self.manifest.variants)
            raise BundleError(f"{self.path}: no variant {variant!r}; it has: {known}")
        return self.path / self.manifest.variants[variant].file

    def golden(self, variant: str = FP32) -> tuple[Feeds, Feeds]:
        """Inputs of one batch, and the outputs that a variant gave for them where it was made.

        Raises:
            BundleError: golden.npz is unreadable, or holds anything else.
        """
        inputs: Feeds = {}
        outputs: Feeds = {}
        folders = {"in": inputs, golden_folder(variant): outputs}
        try:
            with np.load(self.path / GOLDEN, allow_pickle=False) as arrays:
                for key in arrays.files:
                    folder, _, name = key.rpartition("/")
                    if folder in folders:
                        folders[folder][name] = arrays[key]
                    elif not folder.startswith("out"):
                        raise ValueError(f"{key} is neither")
        except Exception as e:  # zip, zlib and numpy raise a dozen kinds on an altered file
            place = self.path / GOLDEN
            raise BundleError(f"{place}: not golden inputs and outputs ({e!r}); get a fresh copy") from e
        return inputs, outputs

    def evidence(self) -> Feeds:
        """Arrays of evidence.npz, see `mmray.optimize.evidence`.

        Raises:
            BundleError: there is none, or it is unreadable.
        """
        place = self.path / EVIDENCE
        if not place.is_file():
            raise BundleError(f"{self.path}: has no {EVIDENCE}; build it again, or give other records")
        try:
            with np.load(place, allow_pickle=False) as arrays:
                return {key: arrays[key] for key in arrays.files}
        except Exception as e:  # as in golden
            raise BundleError(f"{place}: cannot be read ({e!r}); get a fresh copy") from e

    def verify(self) -> None:
        """Check every file against its sha256.

        Raises:
            BundleError: names the file that was altered.
        """
        for name, expected in self.manifest.files.items():
            if sha256_of(self.path / name) != expected:
                raise BundleError(
                    f"{self.path / name}: differs from its checksum in {MANIFEST}; get a fresh copy"
                )


def golden_folder(variant: str) -> str:
    """Where golden.npz has a variant's outputs."""
    return "out" if variant == FP32 else f"out/{variant}"


def _local_copy(place: Location, manifest: Manifest, digest: str) -> Path:
    """The copy of a bundle on this machine: made once, whole, and each file checked against its sha256.

    It lies in the folder bundles/ of $MMRAY_CACHE, or else of ~/.cache/mmray, under the bundle's digest.
    """
    for name in manifest.files:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise BundleError(f"{place / MANIFEST}: names a file outside the bundle: {name}")
    target = cache_directory() / "bundles" / digest
    if not target.is_dir():
        try:
            mirror(place, {**manifest.files, MANIFEST: digest}, target)
        except OSError as e:
            raise BundleError(f"{place}: cannot be copied to {target}: {e}") from e
    return target


def sha256_of(path: Path) -> str:
    """Of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
