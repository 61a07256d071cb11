"""Memory is locked for a GPU where that can be done, and where it cannot nothing else is harmed."""

import ctypes

import numpy as np
import pytest

from mmray.engine import pinned

LARGE = 1 << 20


class CudaRuntime:
    """Stands in for CUDA's library, which keeps the error of a call until somebody asks for it."""

    def __init__(self, answer=0):
        self.answer, self.pending = answer, 0
        self.locked = set()

    def cudaHostRegister(self, address, size, flags):  # noqa: N802  # CUDA's names
        assert (type(size), flags.value) == (ctypes.c_size_t, 0)
        self.pending = self.answer
        if not self.answer:
            self.locked.add((address.value, size.value))
        return self.answer

    def cudaHostUnregister(self, address):  # noqa: N802
        self.locked = {place for place in self.locked if place[0] != address.value}
        return 0

    def cudaGetLastError(self):  # noqa: N802
        pending, self.pending = self.pending, 0
        return pending


@pytest.fixture
def load(monkeypatch):
    """Makes this what `ctypes` finds."""

    def load(runtime):
        def find(name):
            if runtime is None:
                raise OSError(f"{name}: cannot open shared object file")
            return runtime

        monkeypatch.setattr(ctypes, "CDLL", find)
        return runtime

    pinned._runtime.cache_clear()
    yield load
    pinned._runtime.cache_clear()


def test_memory_is_locked_for_as_long_as_its_array_lives(load):
    runtime = load(CudaRuntime())
    array = np.zeros(LARGE, np.uint8)
    assert pinned.pin(array)
    assert runtime.locked == {(array.ctypes.data, LARGE)}
    del array
    assert not runtime.locked


def test_memory_that_cannot_be_locked_leaves_no_error_behind(load):
    """ONNX Runtime would take it for one of its own next kernel."""
    runtime = load(CudaRuntime(answer=2))
    assert not pinned.pin(np.zeros(LARGE, np.uint8))
    assert runtime.pending == 0


def test_small_arrays_which_share_their_pages_stay_as_they_are(load):
    runtime = load(CudaRuntime())
    assert not any(pinned.pin(np.zeros(size, np.uint8)) for size in (0, 8, 4096))
    assert not runtime.locked


def test_where_there_is_no_cuda_runtime_memory_stays_as_it_is(load):
    load(None)
    assert not pinned.pin(np.zeros(LARGE, np.uint8))
