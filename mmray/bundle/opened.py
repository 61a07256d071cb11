"""An opened bundle: its manifest and parts; every file that is read is checked."""

from __future__ import annotations

import hashlib
import io
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from mmray.batching import Feeds
from mmray.bundle.found import find
from mmray.bundle.manifest import (
    FP32,
    GOLDEN,
    MANIFEST,
    RECORDS,
    SCORECARD,
    TOKENIZER,
    Manifest,
    Variant,
)
from mmray.bundle.weights import Malformed, external_files
from mmray.digests import computed_sha256, sha256_of
from mmray.drift import REFERENCE, Reference
from mmray.errors import BundleError, EngineError, of_machine
from mmray.preprocess.spec import PreprocessSpec
from mmray.schema import Modality


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. `Bundle.open` checks that its files exist.

    Each file is checked against its sha256 when it is read; `verify` checks all files.
    """

    path: Path
    manifest: Manifest
    digest: str  # sha256 of manifest.json, hex

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Read the manifest of a directory, or of a URL, whose files are downloaded once.

        Raises:
            BundleError: not a bundle, one of another format, one that lacks files, or whose golden outputs
                do not have the width in the manifest.
        """
        bundle = cls(*find(path))
        bundle._check_widths()
        return bundle

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
        """Raises BundleError where it was altered."""
        return self._checked(TOKENIZER) if self.spec.text else None

    @property
    def scorecard(self) -> dict[str, Any]:
        """Raises BundleError where it was altered."""
        scorecard: dict[str, Any] = json.loads(self._read(SCORECARD))
        return scorecard

    @cached_property
    def reference(self) -> Reference | None:
        """The reference for drift (`mmray.drift`); None if the bundle has none.

        Raises:
            BundleError: the file was altered, or is not a reference.
        """
        if REFERENCE not in self.manifest.files:
            return None
        try:
            return Reference.model_validate_json(self._read(REFERENCE))
        except ValidationError as e:
            raise self._unreadable(REFERENCE, e) from e

    def check_variant(self, name: str) -> None:
        """Refuse a variant that must not be used.

        Raises:
            BundleError: no such variant, one that failed its gate, was never judged, or was altered.
        """
        verdict = self._verdicts.get(name, {})
        if verdict.get("passed") is False:
            raise BundleError(
                f"{self.path}: variant {name!r} failed its gate: {verdict.get('reason')}; "
                f"choose from: {', '.join(self.passing())}"
            )
        self.graph(name)
        if name not in self.passing():
            raise BundleError(
                f"{self.path}: variant {name!r} was never judged; make it with `mmray optimize`"
            )

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
        """The scorecard's entry of each variant, including failed ones."""
        verdicts: dict[str, dict[str, Any]] = self.scorecard.get("variants", {})
        return verdicts

    def graph(self, variant: str) -> Path:
        """Path of a variant's ONNX file.

        Raises:
            BundleError: no such variant, or a file that was altered.
        """
        return self.graph_files(self.entry(variant).file)[0]

    def entry(self, variant: str) -> Variant:
        """The manifest's entry of a variant.

        Raises:
            BundleError: no such variant.
        """
        if variant not in self.manifest.variants:
            known = ", ".join(self.manifest.variants)
            raise BundleError(f"{self.path}: no variant {variant!r}; it has: {known}")
        return self.manifest.variants[variant]

    def graph_files(self, file: str) -> list[Path]:
        """Paths of a graph and of its external weights; all are checked.

        Args:
            file: of the graph, relative to the bundle.

        Raises:
            BundleError: one was altered, is outside the bundle, or is not in its manifest.
            EngineError: it is not an ONNX graph.
        """
        graph = self._checked(file)
        try:
            named = sorted(external_files(graph))
        except Malformed as e:
            raise EngineError(f"{graph}: not an ONNX graph: {e}; build the bundle again") from e
        names = [os.path.normpath(Path(file).parent / name) for name in named]
        for name, normal in zip(named, names, strict=True):
            if Path(name).is_absolute() or normal not in self.manifest.files:
                raise BundleError(
                    f"{graph}: its weights are in {name!r}, which is not in {MANIFEST}; "
                    "build the bundle again"
                )
        return [graph, *(self._checked(name) for name in names)]

    def golden(self, variant: str = FP32) -> tuple[Feeds, Feeds]:
        """Inputs of one batch, and the outputs of a variant on the machine that made it.

        Raises:
            BundleError: golden.npz is unreadable, or has other contents.
        """
        inputs: Feeds = {}
        outputs: Feeds = {}
        folders = {"in": inputs, golden_folder(variant): outputs}
        try:
            with np.load(io.BytesIO(self._read(GOLDEN)), allow_pickle=False) as arrays:
                for key in arrays.files:
                    folder, _, name = key.rpartition("/")
                    if folder in folders:
                        folders[folder][name] = arrays[key]
                    elif not folder.startswith("out"):
                        raise ValueError(f"{key} is neither")
        except Exception as e:  # zip, zlib and numpy raise a dozen types of errors on an altered file
            raise self._unreadable(GOLDEN, e) from e
        return inputs, outputs

    def golden_records(self) -> pa.Table | None:
        """RECORDS of rows of the golden inputs, given by `row`; None in older bundles.

        Raises:
            BundleError: the file is unreadable.
        """
        if RECORDS not in self.manifest.files:
            return None
        try:
            # In this thread alone: one of Arrow's that lets go of Python's bytes while Python exits aborts
            # the process.
            return pq.ParquetFile(pa.BufferReader(self._read(RECORDS))).read(use_threads=False)
        except Exception as e:  # as in golden
            raise self._unreadable(RECORDS, e) from e

    def verify(self) -> None:
        """Check every file against its sha256.

        Raises:
            BundleError: names the file that was altered.
        """
        for name, expected in self.manifest.files.items():
            if computed_sha256(self.path / name) != expected:
                raise self._altered(name)
        for variant in self.manifest.variants.values():
            for file in variant.files:
                self.graph_files(file)

    def _checked(self, name: str) -> Path:
        """Path of a file whose bytes match the manifest."""
        path = self.path / name
        if sha256_of(path) != self.manifest.files.get(name):
            raise self._altered(name)
        return path

    def _read(self, name: str) -> bytes:
        """Bytes of a file, which match the manifest."""
        data = (self.path / name).read_bytes()
        if hashlib.sha256(data).hexdigest() != self.manifest.files.get(name):
            raise self._altered(name)
        return data

    def _altered(self, name: str) -> BundleError:
        return BundleError(f"{self.path / name}: differs from its checksum in {MANIFEST}; get a fresh copy")

    def _unreadable(self, name: str, failure: Exception) -> Exception:
        if isinstance(failure, BundleError) or of_machine(failure):
            return failure
        return BundleError(f"{self.path / name}: cannot be read ({failure!r}); get a fresh copy")

    def _check_widths(self) -> None:
        """Check that there is a label for each score: else a class would get a wrong name, or none."""
        _, outputs = self.golden()
        for name, width in (("scores", len(self.labels)), ("features", self.manifest.features)):
            found = outputs.get(name)
            if found is not None and found.ndim == 2 and width and found.shape[1] != width:
                what = "labels" if name == "scores" else "features"
                raise BundleError(
                    f"{self.path / MANIFEST}: {width} {what}, but the model gives {found.shape[1]}; "
                    "build the bundle again"
                )


def golden_folder(variant: str) -> str:
    """Where golden.npz has a variant's outputs."""
    return "out" if variant == FP32 else f"out/{variant}"
