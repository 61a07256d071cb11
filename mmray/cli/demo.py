"""`mmray demo`: the script of `make demo`, for those who have the package and no checkout."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from mmray.errors import OutputError, UsageError

# A wheel carries what the script needs (pyproject.toml); in a checkout it lies beside the package.
_PLACES = (Path(__file__).parents[1] / "_demo", Path(__file__).parents[2])


def become_demo(folder: Path) -> NoReturn:
    """Run the script in this process's place, in a folder that is made for it.

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
        raise OutputError(f"{folder}: no folder can be made there: {e.strerror}; name another one") from e
    tools = str(Path(sys.executable).parent)
    path = os.pathsep.join([tools, os.environ.get("PATH", os.defpath)])
    # Workers share the cores: numpy's and torch's own threads would only fight them.
    os.execve(bash, [bash, str(script)], {"OMP_NUM_THREADS": "1", **os.environ, "PATH": path})
