"""Devices and engines that fail on purpose, beside or within the real ones."""

from collections.abc import Callable

import numpy as np

from mmray.engine import Engine
from mmray.engine.bound import Bound
from mmray.engine.turns import Device

LOST = "CUDA failure 700: an illegal memory access was encountered"


class FailingDevice(Device):
    """A device that fails in the runs that `fails` says, counted from 1, and computes in the others."""

    def __init__(self, fails: Callable[[int], bool], message: str = LOST) -> None:
        super().__init__()
        self.runs = 0
        self._fails = fails
        self._message = message

    def work(self, infer, shape, *, changed):  # noqa: ARG002
        self.runs += 1
        if self._fails(self.runs):
            raise RuntimeError(self._message)
        infer()


def give_nan(monkeypatch, is_wrong):
    """Outputs are NaN from now on where `is_wrong` says so, given the number of the run, from 1."""
    runs = [0]

    def spoiled(outputs):
        runs[0] += 1
        return {k: v * np.float32(np.nan) for k, v in outputs.items()} if is_wrong(runs[0]) else outputs

    call, fetch = Engine.__call__, Bound.fetch
    monkeypatch.setattr(Engine, "__call__", lambda self, feeds: spoiled(call(self, feeds)))
    monkeypatch.setattr(Bound, "fetch", lambda self: spoiled(fetch(self)))


def fail_where(monkeypatch, is_wrong, message):
    """Batches of an engine fail from now on where `is_wrong` says so, given their arrays."""
    call = Engine.__call__

    def checked(self, feeds):
        if is_wrong(feeds):
            raise RuntimeError(message)
        return call(self, feeds)

    monkeypatch.setattr(Engine, "__call__", checked)
