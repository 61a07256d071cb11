"""Copies of directories of a store on the local disk, made once and checked."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from filelock import FileLock

from mmray.put import TEMPORARY
from mmray.remote import PIECE_BYTES, StoreError
from mmray.storage import Location


def mirror(
    source: Location, files: Mapping[str, str], target: Path, sha256_of: Callable[[Path], str] | None = None
) -> None:
    """Copy files of a directory to the local disk, all or none; only the first of many processes does it.

    A damaged copy is made again.

    Args:
        source: the directory.
        files: paths below it, and the sha256 that each must have.
        target: directory that is created atomically if missing.
        sha256_of: gives the sha256 of an existing file; None: reads it.

    Raises:
        StoreError: a file has another sha256.
        OSError: a file is missing or cannot be read.
    """

    def is_whole() -> bool:
        tell = sha256_of or _read_sha256
        return all((target / name).is_file() and tell(target / name) == files[name] for name in files)

    if target.exists() and is_whole():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        FileLock(target.with_suffix(".lock")),
        tempfile.TemporaryDirectory(prefix=f"{TEMPORARY}{target.name[:12]}-", dir=target.parent) as temporary,
    ):
        if target.exists():
            if is_whole():  # another process has made it meanwhile
                return
            shutil.rmtree(target)
        copy = Path(temporary) / "copy"
        for name, expected in files.items():
            place, path = source / name, copy / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with place.open_input() as file, path.open("wb") as local:
                shutil.copyfileobj(file, local, PIECE_BYTES)
                local.flush()
                os.fsync(local.fileno())
            if _read_sha256(path) != expected:
                raise StoreError(f"{place}: has another sha256 than {expected}")
        copy.rename(target)


def _read_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
