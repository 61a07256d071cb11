"""Finds a bundle at a path or URL: its manifest, and all files that it names, on this machine."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from pydantic import ValidationError

from mmray.bundle.manifest import FORMAT, GOLDEN, MANIFEST, SCORECARD, TOKENIZER, Manifest
from mmray.digests import sha256_of
from mmray.errors import BundleError
from mmray.mirror import mirror
from mmray.storage import Location, cache_directory


def find(path: str | Path) -> tuple[Path, Manifest, str]:
    """The directory of a bundle, its manifest and the manifest's sha256; files of a URL are downloaded once.

    Raises:
        BundleError: not a bundle, one of another format, or one that lacks files.
    """
    place = Location.parse(path)
    raw, manifest = _read(place)
    digest = hashlib.sha256(raw).hexdigest()
    root = Path(place.path) if place.is_local else _local_copy(place, manifest, digest)
    for name in manifest.files:
        if not (root / name).resolve().is_relative_to(root.resolve()):
            raise BundleError(f"{place / MANIFEST}: names a file outside the bundle: {name}")
        if not (root / name).is_file():
            raise BundleError(f"{root}: {name} is missing; copy or build the bundle again")
    parts = [file for v in manifest.variants.values() for file in v.files]
    needed = [*parts, GOLDEN, SCORECARD, *([TOKENIZER] if manifest.preprocessing.text else [])]
    if unlisted := [file for file in needed if file not in manifest.files]:
        raise BundleError(f"{root / MANIFEST}: {unlisted[0]} has no checksum; build the bundle again")
    return root, manifest, digest


def _read(place: Location) -> tuple[bytes, Manifest]:
    try:
        raw = (place / MANIFEST).read_bytes()
    except OSError as e:
        reason = os.strerror(e.errno) if e.errno else e
        raise BundleError(
            f"{place}: not a bundle ({MANIFEST}: {reason}); check the path, or make "
            "one: `mmray bundle import`, `mmray train` or `make demo`"
        ) from e
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(
            f"{place / MANIFEST}: not a manifest of format {FORMAT}: {where}: {first['msg']}"
        ) from e
    if manifest.format != FORMAT:
        raise BundleError(
            f"{place}: bundle of format {manifest.format}; this mmray reads {FORMAT}; build it again"
        )
    return raw, manifest


def _local_copy(place: Location, manifest: Manifest, digest: str) -> Path:
    """The local copy of a bundle: made once, atomically, and each file checked against its sha256.

    It is in the folder bundles/ of $MMRAY_CACHE, or else of ~/.cache/mmray, under the bundle's digest.
    """
    for name in manifest.files:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise BundleError(f"{place / MANIFEST}: names a file outside the bundle: {name}")
    target = cache_directory() / "bundles" / digest
    files = {**manifest.files, MANIFEST: digest}
    try:
        mirror(place, files, target, sha256_of)
    except OSError as e:
        raise BundleError(f"{place}: cannot be copied to {target}: {e}") from e
    return target
