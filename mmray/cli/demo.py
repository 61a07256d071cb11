"""`mmray demo`: the script of `make demo`, for an installed package without a checkout."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from mmray.errors import OutputError, UsageError

# A wheel contains the files of the script (pyproject.toml); in a checkout they are next to the package.
_PLACES = (Path(__file__).parents[1] / "_demo", Path(__file__).parents[2])


def become_demo(folder: Path) -> NoReturn:
    """Replace this process by the script, in a new folder.

    Raises:
        UsageError: bash, or a package that builds the bundle, is missing.
        OutputError: the folder cannot be made.
    """
    script = next(place / "jobs/demo.sh" for place in _PLACES if (place / "jobs/demo.sh").is_file())
    bash = shutil.which("bash")
    if bash is None:
        raise UsageError("mmray demo is a script for bash, which is not on the PATH; install it")
    if find_spec("torch") is None:
        raise UsageError("mmray demo builds its bundle with PyTorch: pip install 'mmray[optimize]'")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
    except OSError as e:
        raise OutputError(f"{folder}: cannot create this folder ({e.strerror}); name another one") from e
    tools = str(Path(sys.executable).parent)
    path = os.pathsep.join([tools, os.environ.get("PATH", os.defpath)])
    # Workers share the cores: numpy's and torch's own threads would only compete.
    os.execve(bash, [bash, str(script)], {"OMP_NUM_THREADS": "1", **os.environ, "PATH": path})
