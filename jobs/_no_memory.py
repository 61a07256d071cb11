"""What happens on a device whose memory another process uses; run as a script, it is that process."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from _proofs import Setting, outputs_of

from mmray.batching import blank
from mmray.bundle import FP32
from mmray.errors import MmrayError
from mmray.loading import open_engine

_LEFT_BYTES = 300 << 20  # share of a device's memory that another process takes


def crowded(setting: Setting) -> dict[str, Any]:
    """What happens on a device whose memory another process uses."""
    if setting.provider != "cuda":
        return {"what": "device without memory", "found": "only on a GPU"}
    with _memory_taken():
        try:
            engine = open_engine(setting.bundle, FP32, provider="cuda", threads=1, ladder=setting.ladder)
            outputs_of(engine.bound(blank(setting.bundle.spec, setting.ladder.typical)))
        except MmrayError as e:
            return {"what": "device without memory", "found": f"refused: {e}"[:300]}
        except Exception as e:  # ONNX Runtime's own exception types share no base
            return {"what": "device without memory", "found": f"{type(e).__name__}: {e}"[:300]}
    return {"what": "device without memory", "found": "it ran anyway"}


@contextmanager
def _memory_taken() -> Iterator[None]:
    """Another process uses almost all of the device's memory."""
    holder = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    try:
        holder.stdout.readline()
        yield
    finally:
        holder.kill()
        holder.wait()


def _hold_memory() -> None:
    """Allocate the memory, report it, and wait for the end of standard input."""
    import onnxruntime as ort

    ort.preload_dlls()
    runtime = ctypes.CDLL("libcudart.so.13")
    free, total, place = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_void_p()
    runtime.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
    runtime.cudaMalloc(ctypes.byref(place), ctypes.c_size_t(max(0, free.value - _LEFT_BYTES)))
    print("taken", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _hold_memory()
