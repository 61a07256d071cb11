"""Page-locked host memory: copies between it and a GPU are direct, and run in parallel with the GPU's work.

ONNX Runtime's Python API (1.31) has none, so ordinary arrays are registered with the CUDA runtime that it has
loaded. If that fails, copies are slower but still correct.
Not yet proven on a GPU.
"""

from __future__ import annotations

import ctypes
import weakref
from functools import cache

import numpy as np
import numpy.typing as npt

# Smaller arrays share pages, and their copies take little time.
_LEAST_BYTES = 64 << 10
_RUNTIMES = ("libcudart.so.13", "libcudart.so.12", "cudart64_13.dll", "cudart64_12.dll")


def pin(array: npt.NDArray[np.generic]) -> bool:
    """Lock an array's memory as long as the array exists; returns whether that worked."""
    runtime = _runtime()
    if runtime is None or array.nbytes < _LEAST_BYTES:
        return False
    address = ctypes.c_void_p(array.ctypes.data)
    if runtime.cudaHostRegister(address, ctypes.c_size_t(array.nbytes), ctypes.c_uint(0)):
        runtime.cudaGetLastError()  # clear it: else ONNX Runtime's next kernel in this thread reports it
        return False
    weakref.finalize(array, runtime.cudaHostUnregister, address)
    return True


@cache
def _runtime() -> ctypes.CDLL | None:
    for name in _RUNTIMES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None
