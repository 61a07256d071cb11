"""Where the project is, and its scripts as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent.parent
SHARDS = 8  # of the session's synthetic set: 240 records in train, tune and test shards of at most 40


def load_script(path: str) -> ModuleType:
    """A script of datasets/ or jobs/ as a module; they are run by path, not imported as packages."""
    file = ROOT / path
    sys.path.insert(0, str(file.parent))
    try:
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(file.stem, module)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(file.parent))
    return module
