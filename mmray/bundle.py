"""The bundle: a directory that holds everything a prediction depends on, and proves that it is unaltered.

Layout: manifest.json names every other file with its sha256; variants/*.onnx are the compiled forms of one
model; golden.npz holds inputs (in/*) and the outputs that they must give (out/* of fp32, out/VARIANT/* of any
other); scorecard.json says how good each variant is. The bundle's digest is the sha256 of manifest.json.
Nothing in a bundle is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmray.batching import Feeds
from mmray.errors import BundleError
from mmray.preprocess.spec import PreprocessSpec
from mmray.storage import Location, cache_directory, mirror

FORMAT = 1
MANIFEST, TOKENIZER, GOLDEN, SCORECARD = "manifest.json", "tokenizer.json", "golden.npz", "scorecard.json"
FP32 = "fp32"  # the variant that is right by definition: the others are made from it and judged by it
_FASTER = 0.9  # "auto" takes a variant that needs at most this share of fp32's time; less may be chance


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
    precision: str = FP32
    parent: str | None = None  # the variant that it was made from and judged by
    provider: Literal["any", "tensorrt"] = "any"  # what it is made for; "any" includes the CPU
    how: dict[str, str] = {}  # the step that made it
    # How far golden outputs may be off elsewhere, as a share of the largest value or of 1: kernels of other
    # machines add in another order. A wrong one is off by far more.
    golden_tolerance: float = 1e-3


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
        unlisted = [v.file for v in manifest.variants.values() if v.file not in manifest.files]
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
    def tokenizer(self) -> Path | None:
        return self.path / TOKENIZER if self.spec.text else None

    @property
    def scorecard(self) -> dict[str, Any]:
        scorecard: dict[str, Any] = json.loads((self.path / SCORECARD).read_text())
        return scorecard

    def choose(self, variant: str) -> str:
        """Name of the variant to run: as asked, or for "auto" the best one.

        The best is fp32, or the fastest that passed its gate where that was measured to be clearly faster, on
        the CPU of the machine that made it.

        Raises:
            BundleError: no such variant, or one that failed its gate.
        """
        name = self._fastest() if variant == "auto" else variant
        verdict = self._verdicts.get(name, {})
        if verdict.get("passed") is False:
            raise BundleError(
                f"{self.path}: variant {name!r} failed its gate: {verdict.get('reason')}; "
                f"choose from: {', '.join(self.passing())}"
            )
        self.graph(name)
        if name not in self.passing():
            raise BundleError(
                f"{self.path}: variant {name!r} was never judged against its parent; it is not used"
            )
        return name

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

    def _fastest(self) -> str:
        """Of the variants for any machine, by milliseconds a record in the largest batch that was timed."""
        times = {}
        for name in self.passing():
            by_batch = self._verdicts.get(name, {}).get("latency_ms", {})
            if by_batch and self.manifest.variants[name].provider == "any":
                times[name] = by_batch[max(by_batch, key=lambda batch: int(batch.rpartition("_")[2]))]
        best = min(times, key=times.__getitem__, default=FP32)
        return best if FP32 in times and times[best] <= _FASTER * times[FP32] else FP32

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
        folders = {"in": inputs, _golden_folder(variant): outputs}
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
    with _replacing(directory) as root:
        (root / "variants").mkdir()
        shutil.copyfile(graph, root / "variants/fp32.onnx")
        if tokenizer is not None:
            shutil.copyfile(tokenizer, root / TOKENIZER)
        _save_golden(root, {"in": golden_inputs, _golden_folder(FP32): golden_outputs})
        manifest = Manifest(
            name=name,
            labels=list(labels),
            features=features,
            preprocessing=spec,
            variants={FP32: Variant(file="variants/fp32.onnx")},
            sources=list(sources),
            origin=dict(origin or {}),
            files={},
        )
        _seal(root, manifest, scorecard)
    return Bundle.open(directory)


@dataclass(frozen=True)
class NewVariant:
    """A variant that `extend_bundle` adds: manifest entry, ONNX file, its outputs for the golden inputs."""

    entry: Variant
    graph: Path
    golden_outputs: Feeds


def extend_bundle(
    directory: Path,
    parent: Bundle,
    added: Mapping[str, NewVariant],
    *,
    scorecard: Mapping[str, Any],
    origin: Mapping[str, str],
) -> Bundle:
    """Write a bundle with the variants of another and new ones, whole or not at all.

    Args:
        directory: where to, beside the parent; replaces a bundle that is there.
        parent: whose model, preprocessing, labels and variants stay.
        added: new variants by name; they replace the parent's of the same name.
        scorecard: of the whole new bundle, JSON-able.
        origin: how it was made, besides what the parent was made from.

    Raises:
        BundleError: the place holds the parent, or something that is not a bundle.
    """
    check_replaceable(directory, parent)
    old = parent.manifest
    kept = {name: variant for name, variant in old.variants.items() if name not in added}
    replaced = {GOLDEN, SCORECARD} | {old.variants[name].file for name in added if name in old.variants}
    with _replacing(directory) as root:
        for name in old.files.keys() - replaced:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(parent.path / name, root / name)
        for new in added.values():
            (root / new.entry.file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(new.graph, root / new.entry.file)
        golden = {_golden_folder(name): parent.golden(name)[1] for name in kept}
        golden |= {_golden_folder(name): new.golden_outputs for name, new in added.items()}
        _save_golden(root, {"in": parent.golden()[0], **golden})
        variants = kept | {name: new.entry for name, new in added.items()}
        changes = {
            "variants": variants,
            "origin": old.origin | dict(origin),
            "parents": {parent.digest: old.name},
        }
        _seal(root, old.model_copy(update=changes), scorecard)
    return Bundle.open(directory)


def check_replaceable(directory: Path, parent: Bundle | None = None) -> None:
    """A bundle may be replaced, unless the new one is made from it.

    Raises:
        BundleError: the place holds the parent, or something that is not a bundle.
    """
    if directory.exists() and not (directory / MANIFEST).is_file() and any(directory.iterdir()):
        raise BundleError(f"{directory}: holds something that is not a bundle; choose another place")
    if parent and directory.resolve() == parent.path.resolve():
        raise BundleError(f"{directory}: is the bundle to start from; choose another place for the new one")


@contextmanager
def _replacing(directory: Path) -> Iterator[Path]:
    """An empty folder that takes the directory's place once all went well."""
    check_replaceable(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as temporary:
        root = Path(temporary) / directory.name
        root.mkdir()
        yield root
        if directory.exists():
            directory.rename(Path(temporary) / "replaced")
        root.rename(directory)


def _golden_folder(variant: str) -> str:
    """Where golden.npz has a variant's outputs."""
    return "out" if variant == FP32 else f"out/{variant}"


def _save_golden(root: Path, folders: Mapping[str, Feeds]) -> None:
    arrays = {f"{folder}/{name}": array for folder, feeds in folders.items() for name, array in feeds.items()}
    np.savez_compressed(root / GOLDEN, **arrays)  # type: ignore[arg-type]  # stub mixes names and options


def _seal(root: Path, manifest: Manifest, scorecard: Mapping[str, Any]) -> None:
    """Write the scorecard, then the manifest with the checksum of every file that is there."""
    (root / SCORECARD).write_text(json.dumps(scorecard, indent=1))
    there = {str(file.relative_to(root)): _sha256(file) for file in sorted(root.rglob("*")) if file.is_file()}
    sealed = manifest.model_copy(update={"files": there})
    (root / MANIFEST).write_text(sealed.model_dump_json(indent=1))


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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
