"""Loaded by each Python process that has this folder on its PYTHONPATH.

A text that holds DEADLY ends the process that decodes it, as a fault of a C decoder would; one that holds
ENDLESS never comes back, GREEDY wants more memory than there is; after one that holds LOST no model runs in
that process any more, as on a device that has gone.
"""

import importlib.abc
import importlib.util
import os
import sys
import time

lost = []


def wrap_decoder(module):
    decode = module.decode_text

    def deadly(data, *arguments):
        if b"DEADLY" in data:
            os._exit(139)
        if b"GREEDY" in data:
            kept = [bytearray(1 << 30) for _ in range(200)]
            return str(len(kept))
        if b"ENDLESS" in data:
            time.sleep(3600)
        if b"LOST" in data:
            lost.append(data)
        return decode(data, *arguments)

    module.decode_text = deadly


def wrap_predictor(module):
    run = module.Predictor.__call__

    def run_unless_lost(*arguments):
        if lost:
            raise module.EngineError("CUDA failure 700: an illegal memory access was encountered")
        return run(*arguments)

    module.Predictor.__call__ = run_unless_lost


WRAPPERS = {"mmray.preprocess.text": wrap_decoder, "mmray.predictor": wrap_predictor}


class Hook(importlib.abc.MetaPathFinder):
    """Wraps what a module has as soon as it is there."""

    def find_spec(self, name, *_):
        if name not in WRAPPERS:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            WRAPPERS[name](module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Hook())
