"""Sha256 of files: of their current bytes, computed once for each state of a file.

A state is the inode, size and times of change of a file: ordinary changes alter at least one of them. Digests
are cached in the process, those of large files also in this machine's cache, so that the workers of a node do
not all read the same weights. A directory may be *sealed*: it then contains the sha256 of its files, so that
changes are detected.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from mmray.storage import Location, cache_directory

SEAL = "sha256.json"

_LARGE_BYTES = 8 << 20  # 20 ms on one core; digests of smaller files are not shared between processes
# File times have a resolution of milliseconds, on some network drives of a second: a file that has just
# changed may change again with the same time.
_STABLE_NS = 2_000_000_000

_State = tuple[int, ...]
_known: dict[tuple[str, _State], str] = {}


def sha256_of(path: Path) -> str:
    """Of a file's bytes, hex.

    Raises:
        OSError: it cannot be read.
    """
    before = _state(path)
    key = str(path.absolute()), before
    if found := _known.get(key) or _recall(key):
        _known[key] = found
        return found
    found = computed_sha256(path)
    if _state(path) == before and time.time_ns() - max(before[-2:]) > _STABLE_NS:
        _known[key] = found
        _remember(key, found)
    return found


def computed_sha256(path: Path) -> str:
    """Of a file's bytes, hex, read now, without the cache."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_all(files: Sequence[Path]) -> str:
    """Of several files in order; for one file, its own."""
    found = [sha256_of(file) for file in files]
    return found[0] if len(found) == 1 else hashlib.sha256("".join(found).encode()).hexdigest()


def seal(directory: Path) -> None:
    """Store the sha256 of every file in a directory."""
    Location.parse(directory / SEAL).write_atomically(sealed(_digests(directory)))


def is_sealed(directory: Path) -> bool:
    """Whether a directory has its seal and exactly the sealed files, unchanged."""
    try:
        files = unsealed((directory / SEAL).read_bytes())
        return bool(files) and files == _digests(directory)
    except FileNotFoundError:
        return False


def sealed(values: Mapping[str, object]) -> bytes:
    """A JSON object with the sha256 of its content as one more key."""
    return json.dumps({**values, "sha256": _digest(values)}, indent=1).encode()


def unsealed(data: bytes) -> dict[str, object]:
    """The object again; empty if the bytes do not match the seal."""
    try:
        values = json.loads(data)
        claimed = values.pop("sha256")
    except (ValueError, RecursionError, AttributeError, TypeError, KeyError):
        return {}
    return values if claimed == _digest(values) else {}


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _digests(directory: Path) -> dict[str, str]:
    files = [f for f in sorted(directory.rglob("*")) if f.is_file() and f.name != SEAL]
    return {str(f.relative_to(directory)): sha256_of(f) for f in files}


def _state(path: Path) -> _State:
    about = path.stat()
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def _place(key: tuple[str, _State]) -> Path | None:
    """Where the digest of a large file is kept."""
    if key[1][2] < _LARGE_BYTES:
        return None
    return cache_directory() / "digests" / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:24]}.json"


def _recall(key: tuple[str, _State]) -> str | None:
    place = _place(key)
    with suppress(OSError):  # it is computed again then
        found = unsealed(place.read_bytes()) if place else {}
        if found.get("of") == [key[0], *key[1]]:
            return str(found["digest"])
    return None


def _remember(key: tuple[str, _State], digest: str) -> None:
    if place := _place(key):
        with suppress(OSError):  # a cache that cannot be written only costs time
            place.parent.mkdir(parents=True, exist_ok=True)
            Location.parse(place).write_atomically(sealed({"of": [key[0], *key[1]], "digest": digest}))
