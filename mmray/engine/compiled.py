"""Cache of files that a provider compiled for this machine (TensorRT's engines).

Providers load such files without a check and write to them while they run. So they are kept with a checksum,
each process works on its own copy, and the copy replaces the cached files once its answers are checked.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from mmray.digests import SEAL, is_sealed, seal


class Compiled:
    """A directory for a provider's files: a copy of the cached ones if their checksum matches; else empty.

    Args:
        place: directory of the cache.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        place.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(place.parent)
        self._home = tempfile.TemporaryDirectory(prefix=f".tmp-{os.getpid()}-", dir=place.parent)
        #: Directory that the provider reads and writes; deleted with the process.
        self.directory = Path(self._home.name) / "files"
        with FileLock(place.with_suffix(".lock")):
            if is_sealed(place):
                shutil.copytree(place, self.directory)
        self.directory.mkdir(exist_ok=True)

    def keep(self) -> None:
        """Keep the current files for other processes."""
        with FileLock(self._place.with_suffix(".lock")):
            before = (self.directory / SEAL).read_bytes() if (self.directory / SEAL).exists() else b""
            seal(self.directory)
            if (self.directory / SEAL).read_bytes() == before and is_sealed(self._place):
                return
            copy = shutil.copytree(self.directory, Path(self._home.name) / "kept")
            shutil.rmtree(self._place, ignore_errors=True)
            copy.rename(self._place)


def _remove_abandoned(folder: Path) -> None:
    """Copies of processes that were killed."""
    for left in folder.glob(".tmp-*"):
        try:
            os.kill(int(left.name.split("-")[1]), 0)
        except ProcessLookupError:
            shutil.rmtree(left, ignore_errors=True)
        except (PermissionError, ValueError, IndexError):
            continue  # another user's process, or not ours
