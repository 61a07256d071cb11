"""Fetch and unpack one package of the host's Debian archive, without root and without installing it.

apt-get gets lists, cache and status of its own in a temporary folder, so the host's are neither read nor
changed; only its configured sources are used, and apt checks the signatures as always. The .deb and the
unpacked tree stay in the download folder and are used again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import unquote

import typer

from mmray.errors import InputError

TIMEOUT_S = 900


def fetch(package: str, downloads: Path) -> tuple[Path, str]:
    """Return the unpacked tree of `package` and its version; what is in `downloads` already is used.

    Raises:
        InputError: the tools are missing, or the package cannot be fetched or unpacked.
    """
    downloads.mkdir(parents=True, exist_ok=True)
    trees = sorted(p for p in downloads.glob(f"{package}_*") if p.is_dir())
    if trees:
        return trees[-1], trees[-1].name.removeprefix(f"{package}_")
    debs = sorted(downloads.glob(f"{package}_*.deb"))
    deb = debs[-1] if debs else _download(package, downloads)
    version = unquote(deb.name.split("_")[1])  # apt writes the colon of an epoch as %3a
    typer.echo(f"unpacking {deb.name} ({deb.stat().st_size / 1e6:.0f} MB)")
    return _unpack(deb, downloads / f"{package}_{version}"), version


def _download(package: str, downloads: Path) -> Path:
    _need("apt-get", package)
    typer.echo(f"downloading {package} with apt-get into {downloads}")
    with tempfile.TemporaryDirectory(prefix=".apt-", dir=downloads.resolve()) as name:
        state = Path(name)
        for folder in ("lists/partial", "cache/archives/partial"):
            (state / folder).mkdir(parents=True)
        apt = [
            "apt-get",
            "-q",
            *("-o", f"Dir::State::Lists={state}/lists"),
            *("-o", f"Dir::Cache={state}/cache"),
            *("-o", "Dir::State::status=/dev/null"),
            *("-o", "APT::Sandbox::User=root"),  # else root's apt warns that its own user cannot enter here
            *("-o", "Acquire::http::Timeout=30"),
        ]
        remedy = f"fetch {package} elsewhere into {downloads}, or use datasets/synthetic.py"
        _check([*apt, "update"], state, "apt-get update failed", remedy)
        _check([*apt, "download", package], state, f"apt-get cannot download {package}", remedy)
        found = sorted(state.glob(f"{package}_*.deb"))
        if not found:
            raise InputError(f"apt-get left no {package}_*.deb in {state}; {remedy}")
        return found[0].replace(downloads / found[0].name)


def _unpack(deb: Path, tree: Path) -> Path:
    _need("dpkg-deb", deb.name)
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=tree.parent) as name:
        inner = Path(name) / "tree"
        command = ["dpkg-deb", "-x", str(deb.resolve()), str(inner.resolve())]
        _check(command, tree.parent, f"{deb} cannot be unpacked", f"remove {deb} to fetch it again")
        inner.rename(tree)  # a tree that is there is a whole one
    return tree


def _need(tool: str, what: str) -> None:
    if shutil.which(tool) is None:
        raise InputError(
            f"{tool} not found, needed for {what}: run this on Debian or Ubuntu, point --stamps at an "
            "installed copy, or use datasets/synthetic.py"
        )


def _check(command: list[str], folder: Path, failure: str, remedy: str) -> None:
    """Run quietly in `folder`; on failure raise with the tool's last word."""
    env = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"{failure} within {TIMEOUT_S} s; {remedy}") from None
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if not line.startswith("W:")]
        word = (errors or lines or [f"exit code {done.returncode}"])[-1]
        raise InputError(f"{failure}: {word.removeprefix('E: ')}; {remedy}")
