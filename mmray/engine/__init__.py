"""One variant loaded in ONNX Runtime: the only door to `onnxruntime` on the running side.

It loads what was asked for or raises: ONNX Runtime itself falls back to the CPU with only a log line.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort

from mmray.batching import Feeds
from mmray.errors import EngineError

Provider = Literal["auto", "cpu", "cuda"]

_ORT_NAMES = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_CUDA_OPTIONS = {
    "arena_extend_strategy": "kSameAsRequested",  # grow by what is needed, not by doubling
    "cudnn_conv_algo_search": "HEURISTIC",  # EXHAUSTIVE searches anew for each batch shape
}


class Engine:
    """A loaded graph.

    Args:
        graph: ONNX file.
        provider: where to run; "auto" takes CUDA where this installation and machine have it, else the CPU.
        threads: threads of one inference; the CPUs that the caller owns, never more.

    Raises:
        EngineError: the graph or the provider did not load.
    """

    def __init__(self, graph: Path, *, provider: Provider = "auto", threads: int = 1) -> None:
        # Warnings about this machine's devices are no news to a user; errors are raised anyway.
        ort.set_default_logger_severity(3)
        chosen = provider if provider != "auto" else _best_provider()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        # Spinning threads halve the speed as soon as another process wants the core.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Exact int8 on CPUs whose U8S8 product saturates (AVX2 without VNNI); no effect elsewhere.
        options.add_session_config_entry("session.x64quantprecision", "1")
        providers: list[Any] = ["CPUExecutionProvider"]
        if chosen == "cuda":
            ort.preload_dlls()
            providers.insert(0, ("CUDAExecutionProvider", _CUDA_OPTIONS))
        try:
            self._session = ort.InferenceSession(str(graph), options, providers=providers)
        except Exception as e:  # ONNX Runtime's own exception types share no base
            raise EngineError(f"{graph}: ONNX Runtime cannot load it on {chosen}: {e}") from e
        loaded = self._session.get_providers()[0]
        if loaded != _ORT_NAMES[chosen]:
            raise EngineError(
                f"asked for {_ORT_NAMES[chosen]}, but ONNX Runtime loaded {loaded}; "
                "run `mmray doctor`, or choose provider=cpu"
            )
        self.provider: str = chosen
        self.outputs: list[str] = [output.name for output in self._session.get_outputs()]

    @property
    def needs_rows(self) -> bool:
        """Whether every modality must have at least one row: cuDNN refuses an empty convolution."""
        return self.provider != "cpu"

    def __call__(self, feeds: Feeds) -> Feeds:
        """Run one batch.

        Args:
            feeds: arrays as `mmray.batching.pack` makes them.

        Returns:
            ``logits`` and ``scores`` float32 [B, C], ``features`` float32 [B, D].
        """
        outputs = self._session.run(self.outputs, feeds) if self.provider == "cpu" else self._run_bound(feeds)
        return dict(zip(self.outputs, outputs, strict=True))

    def _run_bound(self, feeds: Feeds) -> list[np.ndarray[Any, Any]]:
        """Run with inputs and outputs bound, so that each is copied once."""
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in self.outputs:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        return list(binding.copy_outputs_to_cpu())


def available_providers() -> Mapping[str, bool]:
    """Which providers this installation of ONNX Runtime was built with, by our names."""
    built = ort.get_available_providers()
    return {ours: theirs in built for ours, theirs in _ORT_NAMES.items()}


def _best_provider() -> str:
    """CUDA where the wheel has it and the machine a device."""
    has_device = Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidia0").exists()
    return "cuda" if has_device and available_providers()["cuda"] else "cpu"
