"""Loaded by each Python process that has this folder on its PYTHONPATH: faults that a test asks for.

By the text of a record: DEADLY ends the process that decodes it, as a fault of a C decoder would; ENDLESS
never comes back; GREEDY wants more memory than there is; after LOST no model runs in that process any more.

While a file of that name lies in the folder $MMRAY_FAULTS every device is "lost", or every graph gives "nan".

$MMRAY_ROW_S: seconds that a record takes in the model, waiting, so that more workers than cores are as fast
as each alone; $MMRAY_ROWS: the file that says when, where and by whom rows were done (support/nodes.py).
"""

import importlib.abc
import importlib.util
import os
import sys
import time
from pathlib import Path

import numpy

LOST = "CUDA failure 700: an illegal memory access was encountered"
ROW_S = float(os.environ.get("MMRAY_ROW_S", "0"))
FLAGS = Path(os.environ.get("MMRAY_FAULTS", "/nonexistent"))

lost = []


def wrap_decoder(module):
    decode = module.decode_text

    def deadly(data, *arguments):
        if b"DEADLY" in data:
            os._exit(139)
        if b"GREEDY" in data:
            kept = [numpy.zeros(1 << 30, numpy.uint8) for _ in range(200)]  # never touched
            return str(len(kept))
        if b"ENDLESS" in data:
            time.sleep(3600)
        if b"LOST" in data:
            lost.append(data)
        return decode(data, *arguments)

    module.decode_text = deadly


def wrap_device(module):
    work = module.Device.work

    def work_unless_lost(self, infer, shape, *, changed):
        if lost or (FLAGS / "lost").exists():
            raise RuntimeError(LOST)
        work(self, infer, shape, changed=changed)

    module.Device.work = work_unless_lost


def wrap_engine(module):
    call = module.Engine.__call__

    def spoil(self, feeds):
        outputs = call(self, feeds)
        wrong = (FLAGS / "nan").exists()
        return {name: values * float("nan") for name, values in outputs.items()} if wrong else outputs

    module.Engine.__call__ = spoil


def wrap_predictor(module):
    call = module.Predictor.__call__

    def wait(self, tensors, *arguments):
        outcomes = call(self, tensors, *arguments)
        time.sleep(ROW_S * tensors.num_rows)
        if "MMRAY_ROWS" in os.environ:
            node = __import__("ray").get_runtime_context().get_node_id()
            with open(os.environ["MMRAY_ROWS"], "a") as log:  # noqa: PTH123  (one write, at the end of the file)
                log.write(f"{time.time()} {node} {os.getpid()} {tensors.num_rows}\n")
        return outcomes

    module.Predictor.__call__ = wait


WRAPPERS = {
    "mmray.preprocess.text": wrap_decoder,
    "mmray.engine.turns": wrap_device,
    "mmray.engine": wrap_engine,
    "mmray.predictor": wrap_predictor,
}


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
