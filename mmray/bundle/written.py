"""Writes bundles atomically, with the checksum of every file."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmray.batching import Feeds
from mmray.bundle.manifest import (
    FP32,
    GOLDEN,
    MANIFEST,
    RECORDS,
    SCORECARD,
    TOKENIZER,
    Manifest,
    Source,
    Variant,
)
from mmray.bundle.opened import Bundle, golden_folder
from mmray.digests import sha256_of
from mmray.drift import REFERENCE, Reference
from mmray.errors import BundleError
from mmray.preprocess.spec import PreprocessSpec

#: Makes the reference of an almost finished bundle; None: there are no records for it.
Describe = Callable[[Bundle], Reference | None]


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
    golden_records: pa.Table | None = None,
    sources: Iterable[Source] = (),
    origin: Mapping[str, str] | None = None,
    found: Mapping[str, Any] | None = None,
    describe: Describe | None = None,
) -> Bundle:
    """Write a bundle with one fp32 variant atomically; replaces an existing bundle.

    Args:
        directory: of the bundle.
        name: of the bundle.
        graph: ONNX file with the inputs of `mmray.batching.pack` and outputs logits, scores, features.
        spec: the preprocessing that the model was trained with.
        labels: class names, in the order of the scores.
        features: width of the features output.
        tokenizer: tokenizer.json, where the spec has text.
        golden_inputs: arrays of one batch, as `pack` makes them.
        golden_outputs: outputs of the graph for them.
        scorecard: measured quality, JSON-able.
        golden_records: RECORDS of rows of the golden inputs, given by `row`.
        sources: weights used, with licences.
        origin: what the model was trained on and how.
        found: fields of the variant's entry that were measured: `temperatures`, `selective`.
        describe: makes the reference; None: the bundle has none.

    Raises:
        BundleError: the place holds something that is not a bundle.
    """
    with _replacing(directory) as root:
        (root / "variants").mkdir()
        shutil.copyfile(graph, root / "variants/fp32.onnx")
        if tokenizer is not None:
            shutil.copyfile(tokenizer, root / TOKENIZER)
        if golden_records is not None:
            pq.write_table(golden_records, root / RECORDS)
        _save_golden(root, {"in": golden_inputs, golden_folder(FP32): golden_outputs})
        manifest = Manifest(
            name=name,
            labels=list(labels),
            features=features,
            preprocessing=spec,
            variants={FP32: Variant(file="variants/fp32.onnx", **(found or {}))},
            sources=list(sources),
            origin=dict(origin or {}),
            files={},
        )
        _seal(root, manifest, scorecard)
        _refer(root, describe and describe(Bundle.open(root)))
    return Bundle.open(directory)


@dataclass(frozen=True)
class NewVariant:
    """A variant that `extend_bundle` adds: manifest entry, ONNX file, its outputs for the golden inputs."""

    entry: Variant
    graph: Path
    golden_outputs: Feeds
    stages: tuple[Path, ...] = ()  # ONNX files of a cascade


def extend_bundle(
    directory: Path,
    parent: Bundle,
    added: Mapping[str, NewVariant],
    *,
    scorecard: Mapping[str, Any],
    origin: Mapping[str, str],
    found: Mapping[str, Mapping[str, Any]] | None = None,
    abstain: float | None = None,
    describe: Describe | None = None,
) -> Bundle:
    """Write a bundle with the variants of another bundle and new ones, atomically.

    Args:
        directory: of the new bundle, not the parent's; an existing bundle is replaced.
        parent: whose model, preprocessing, labels and variants are kept.
        added: new variants by name; they replace the parent's of the same name.
        scorecard: of the whole new bundle, JSON-able.
        origin: how it was made, besides what the parent was made from.
        found: of the parent's variants, by name: fields of their entries that are new.
        abstain: default risk for abstaining; None: the parent's.
        describe: makes the reference; None: the parent's is kept, for unchanged variants.

    Raises:
        BundleError: the directory is the parent, or not a bundle.
    """
    check_replaceable(directory, parent)
    old = parent.manifest
    kept = {
        name: variant.model_copy(update=dict((found or {}).get(name, {})))
        for name, variant in old.variants.items()
        if name not in added
    }
    gone = {file for name in added if name in old.variants for file in old.variants[name].files}
    replaced = {GOLDEN, SCORECARD, REFERENCE} | gone.difference(*(variant.files for variant in kept.values()))
    with _replacing(directory) as root:
        for name in old.files.keys() - replaced:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(parent.path / name, root / name)
        for new in added.values():
            for file, graph in zip(new.entry.files, (new.graph, *new.stages), strict=True):
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(graph, root / file)
        golden = {golden_folder(name): parent.golden(name)[1] for name in kept}
        golden |= {golden_folder(name): new.golden_outputs for name, new in added.items()}
        _save_golden(root, {"in": parent.golden()[0], **golden})
        variants = kept | {name: new.entry for name, new in added.items()}
        changes = {
            "variants": variants,
            "origin": old.origin | dict(origin),
            "parents": {parent.digest: old.name},
            "abstain": old.abstain if abstain is None else abstain,
        }
        _seal(root, old.model_copy(update=changes), scorecard)
        unchanged = [name for name in kept if name not in (found or {})]
        before = parent.reference and parent.reference.only(unchanged)
        _refer(root, describe(Bundle.open(root)) if describe else before)
    return Bundle.open(directory)


def check_replaceable(directory: Path, parent: Bundle | None = None) -> None:
    """Refuse to replace anything but a bundle, or the bundle that the new one is made from.

    Raises:
        BundleError: the directory is the parent, or not a bundle.
    """
    is_empty = directory.is_dir() and not any(directory.iterdir())
    if directory.exists() and not is_empty and not (directory / MANIFEST).is_file():
        raise BundleError(f"{directory}: exists and is not a bundle; choose another directory")
    if parent and directory.resolve() == parent.path.resolve():
        raise BundleError(
            f"{directory}: is the bundle to start from; choose another directory for the new one"
        )


@contextmanager
def _replacing(directory: Path) -> Iterator[Path]:
    """An empty folder that replaces the directory on success."""
    check_replaceable(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as temporary:
        root = Path(temporary) / directory.name
        root.mkdir()
        yield root
        if directory.exists():
            directory.rename(Path(temporary) / "replaced")
        root.rename(directory)


def _save_golden(root: Path, folders: Mapping[str, Feeds]) -> None:
    arrays = {f"{folder}/{name}": array for folder, feeds in folders.items() for name, array in feeds.items()}
    np.savez_compressed(root / GOLDEN, **arrays)  # type: ignore[arg-type]  # stub mixes names and options


def _seal(root: Path, manifest: Manifest, scorecard: Mapping[str, Any]) -> None:
    """Write the scorecard, then the manifest with the checksum of every file."""
    (root / SCORECARD).write_text(json.dumps(scorecard, indent=1))
    there = {
        str(file.relative_to(root)): sha256_of(file) for file in sorted(root.rglob("*")) if file.is_file()
    }
    sealed = manifest.model_copy(update={"files": there})
    (root / MANIFEST).write_text(sealed.model_dump_json(indent=1))


def _refer(root: Path, reference: Reference | None) -> None:
    """Add the reference to a sealed bundle."""
    if reference is None:
        return
    file = root / REFERENCE
    file.write_text(reference.to_json())
    manifest = Manifest.model_validate_json((root / MANIFEST).read_bytes())
    sealed = manifest.model_copy(update={"files": manifest.files | {REFERENCE: sha256_of(file)}})
    (root / MANIFEST).write_text(sealed.model_dump_json(indent=1))
