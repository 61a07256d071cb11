"""Loaded by each Python process that has this folder on its PYTHONPATH: a device that is lost now and then.

While a file of that name lies in the folder $MMRAY_FAULTS, each graph of a worker fails ("lost") or answers
with numbers that are none ("nan").
"""

import importlib.abc
import importlib.util
import os
import sys
from pathlib import Path

_MODULE = "mmray.engine"
_FAULTS = Path(os.environ.get("MMRAY_FAULTS", "/nonexistent"))
_LOST = "[ONNXRuntimeError] : 1 : FAIL : CUDA failure 700: an illegal memory access was encountered"


class Hook(importlib.abc.MetaPathFinder):
    """Wraps the engine as soon as it is there."""

    def find_spec(self, name, *_):
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            call = module.Engine.__call__

            def faulty(self, feeds):
                if (_FAULTS / "lost").exists():
                    raise RuntimeError(_LOST)
                outputs = call(self, feeds)
                if (_FAULTS / "nan").exists():
                    return {name: values * float("nan") for name, values in outputs.items()}
                return outputs

            module.Engine.__call__ = faulty

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Hook())
