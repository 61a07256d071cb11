"""The bundle: a directory that holds everything a prediction depends on, and proves that it is unaltered.

Layout: manifest.json names every other file with its sha256; variants/*.onnx are the compiled forms of one
model; golden.npz holds inputs and the outputs that they must give; scorecard.json says how good each variant
is. The bundle's digest is the sha256 of manifest.json. Nothing in a bundle is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmray.batching import Feeds
from mmray.errors import BundleError
from mmray.preprocess.spec import PreprocessSpec

FORMAT = 1
MANIFEST, TOKENIZER, GOLDEN, SCORECARD = "manifest.json", "tokenizer.json", "golden.npz", "scorecard.json"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Entry):
    """Where weights came from."""

    name: str
    version: str
    file: str
    sha256: str
    licence: str


class Variant(_Entry):
    """One compiled form of the model."""

    file: str  # relative to the bundle
    precision: str = "fp32"


class Manifest(_Entry):
    """manifest.json."""

    format: int = FORMAT
    name: str
    labels: list[str]
    features: int  # width of the fused features
    preprocessing: PreprocessSpec
    variants: dict[str, Variant]
    sources: list[Source] = []
    origin: dict[str, str] = {}  # what it was built from: inputs, options, parents
    files: dict[str, str] = Field(description="relative path of every other file: its sha256")


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. `Bundle.open` checks that its files are there; `verify` that they are unaltered."""

    path: Path
    manifest: Manifest
    digest: str  # sha256 of manifest.json, hex

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Read the manifest.

        Raises:
            BundleError: no bundle there, one of another format, or one that lacks files.
        """
        root = Path(path).expanduser().absolute()
        try:
            raw = (root / MANIFEST).read_bytes()
        except OSError as e:
            raise BundleError(f"{path}: no bundle there ({MANIFEST}: {e.strerror}); build one first") from e
        try:
            manifest = Manifest.model_validate_json(raw)
        except ValidationError as e:
            first = e.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BundleError(
                f"{root / MANIFEST}: not a manifest of format {FORMAT}: {where}: {first['msg']}"
            ) from e
        if manifest.format != FORMAT:
            raise BundleError(f"{path}: bundle of format {manifest.format}; this mmray reads format {FORMAT}")
        for name in manifest.files:
            if not (root / name).resolve().is_relative_to(root.resolve()):
                raise BundleError(f"{root / MANIFEST}: names a file outside the bundle: {name}")
            if not (root / name).is_file():
                raise BundleError(f"{path}: {name} is missing; copy or build the bundle again")
        unlisted = [v.file for v in manifest.variants.values() if v.file not in manifest.files]
        if unlisted:
            raise BundleError(
                f"{root / MANIFEST}: variant {unlisted[0]} has no checksum; build the bundle again"
            )
        return cls(root, manifest, hashlib.sha256(raw).hexdigest())

    @property
    def spec(self) -> PreprocessSpec:
        return self.manifest.preprocessing

    @property
    def labels(self) -> list[str]:
        return self.manifest.labels

    @property
    def tokenizer(self) -> Path | None:
        return self.path / TOKENIZER if self.spec.text else None

    @property
    def scorecard(self) -> dict[str, Any]:
        scorecard: dict[str, Any] = json.loads((self.path / SCORECARD).read_text())
        return scorecard

    def choose(self, variant: str) -> str:
        """Name of the variant to run: as asked, or for "auto" the best one.

        Until variants are measured against each other, the one that is right by definition is the best.

        Raises:
            BundleError: no such variant.
        """
        name = "fp32" if variant == "auto" else variant
        self.graph(name)
        return name

    def graph(self, variant: str) -> Path:
        """Path of a variant's ONNX file.

        Raises:
            BundleError: no such variant.
        """
        if variant not in self.manifest.variants:
            known = ", ".join(self.manifest.variants)
            raise BundleError(f"{self.path}: no variant {variant!r}; it has: {known}")
        return self.path / self.manifest.variants[variant].file

    def golden(self) -> tuple[Feeds, Feeds]:
        """Inputs of one batch, and the outputs that fp32 gave for them where the bundle was built.

        Raises:
            BundleError: golden.npz is unreadable, or holds anything else.
        """
        split: dict[str, Feeds] = {"in": {}, "out": {}}
        try:
            with np.load(self.path / GOLDEN, allow_pickle=False) as arrays:
                for key in arrays.files:
                    side, _, name = key.partition("/")
                    split[side][name] = arrays[key]
        except Exception as e:  # zip, zlib and numpy raise a dozen kinds on an altered file
            place = self.path / GOLDEN
            raise BundleError(f"{place}: not golden inputs and outputs ({e!r}); get a fresh copy") from e
        return split["in"], split["out"]

    def verify(self) -> None:
        """Check every file against its sha256.

        Raises:
            BundleError: names the file that was altered.
        """
        for name, expected in self.manifest.files.items():
            if _sha256(self.path / name) != expected:
                raise BundleError(
                    f"{self.path / name}: differs from its checksum in {MANIFEST}; get a fresh copy"
                )


def write_bundle(
    directory: Path,
    *,
    name: str,
    graph: Path,
    spec: PreprocessSpec,
    labels: Iterable[str],
    features: int,
    tokenizer: Path | None,
    golden_inputs: Feeds,
    golden_outputs: Feeds,
    scorecard: Mapping[str, Any],
    sources: Iterable[Source] = (),
    origin: Mapping[str, str] | None = None,
) -> Bundle:
    """Write a bundle with one fp32 variant, whole or not at all; replaces a bundle that is there.

    Args:
        directory: where to.
        name: for people.
        graph: ONNX file with the inputs of `mmray.batching.pack` and outputs logits, scores, features.
        spec: the preprocessing that the model was trained with.
        labels: class names, in the order of the scores.
        features: width of the features output.
        tokenizer: tokenizer.json, where the spec has text.
        golden_inputs: arrays of one batch, as `pack` makes them.
        golden_outputs: what the graph gave for them.
        scorecard: measured quality, JSON-able.
        sources: weights that went in, with licences.
        origin: what the model was trained on and how.

    Raises:
        BundleError: the place holds something that is not a bundle.
    """
    if directory.exists() and not (directory / MANIFEST).is_file() and any(directory.iterdir()):
        raise BundleError(f"{directory}: holds something that is not a bundle; choose another place")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as temporary:
        root = Path(temporary) / directory.name
        (root / "variants").mkdir(parents=True)
        shutil.copyfile(graph, root / "variants/fp32.onnx")
        if tokenizer is not None:
            shutil.copyfile(tokenizer, root / TOKENIZER)
        golden = {f"in/{k}": v for k, v in golden_inputs.items()} | {
            f"out/{k}": v for k, v in golden_outputs.items()
        }
        np.savez_compressed(root / GOLDEN, **golden)  # type: ignore[arg-type]  # stub mixes names and options
        (root / SCORECARD).write_text(json.dumps(scorecard, indent=1))
        manifest = Manifest(
            name=name,
            labels=list(labels),
            features=features,
            preprocessing=spec,
            variants={"fp32": Variant(file="variants/fp32.onnx")},
            sources=list(sources),
            origin=dict(origin or {}),
            files={
                str(file.relative_to(root)): _sha256(file)
                for file in sorted(root.rglob("*"))
                if file.is_file()
            },
        )
        (root / MANIFEST).write_text(manifest.model_dump_json(indent=1))
        if directory.exists():
            directory.rename(Path(temporary) / "replaced")
        root.rename(directory)
    return Bundle.open(directory)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
