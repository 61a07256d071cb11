"""Loaded by each Python process that has this folder on its PYTHONPATH.

A text that holds DEADLY ends the process that decodes it, as a fault of a C decoder would; one that holds
ENDLESS never comes back, and GREEDY wants more memory than there is.
"""

import importlib.abc
import importlib.util
import os
import sys
import time

_MODULE = "mmray.preprocess.text"


class Hook(importlib.abc.MetaPathFinder):
    """Wraps `decode_text` as soon as it is there."""

    def find_spec(self, name, *_):
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            decode = module.decode_text

            def deadly(data, *arguments):
                if b"DEADLY" in data:
                    os._exit(139)
                if b"GREEDY" in data:
                    kept = [bytearray(1 << 30) for _ in range(200)]
                    return str(len(kept))
                if b"ENDLESS" in data:
                    time.sleep(3600)
                return decode(data, *arguments)

            module.decode_text = deadly

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Hook())
