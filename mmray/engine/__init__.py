"""One variant loaded in ONNX Runtime: the only door to `onnxruntime` on the running side.

It loads what was asked for or raises: ONNX Runtime itself falls back to the CPU with only a log line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from mmray.batching import Feeds
from mmray.engine.device import device_type, engine_version
from mmray.engine.prepack import shared_graph
from mmray.engine.providers import (
    ORT_NAMES,
    Provider,
    Setup,
    available_providers,
    best_provider,
    provider_chain,
    usual_batch_rows,
)
from mmray.errors import EngineError

__all__ = [
    "Engine",
    "Provider",
    "Setup",
    "available_providers",
    "best_provider",
    "device_type",
    "engine_version",
    "shared_graph",
    "usual_batch_rows",
]


class Engine:
    """A loaded graph.

    Args:
        graph: ONNX file.
        provider: where to run; "auto" takes CUDA where this installation and machine have it, else the CPU.
        threads: threads of one inference; the CPUs that the caller owns, never more.
        prepacked: whether the graph is one that `shared_graph` made: it is optimized already.
        setup: what the provider may use beside the graph.

    Raises:
        EngineError: the graph or the provider did not load.
    """

    def __init__(
        self,
        graph: Path,
        *,
        provider: Provider = "auto",
        threads: int = 1,
        prepacked: bool = False,
        setup: Setup | None = None,
    ) -> None:
        # Warnings about this machine's devices are no news to a user; errors are raised anyway.
        ort.set_default_logger_severity(3)
        chosen = provider if provider != "auto" else best_provider()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        # Spinning threads halve the speed as soon as another process wants the core.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Exact int8 on CPUs whose U8S8 product saturates (AVX2 without VNNI); no effect elsewhere.
        options.add_session_config_entry("session.x64quantprecision", "1")
        # A memory pattern is kept for each shape of batch, and ours differ all the time.
        options.enable_mem_pattern = False
        if prepacked:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if chosen in ("cuda", "tensorrt"):
            ort.preload_dlls()
        providers = provider_chain(chosen, setup or Setup())
        try:
            self._session = ort.InferenceSession(str(graph), options, providers=providers)
        except Exception as e:  # ONNX Runtime's own exception types share no base
            raise EngineError(f"{graph}: ONNX Runtime cannot load it on {chosen}: {e}") from e
        loaded = self._session.get_providers()[0]
        if loaded != ORT_NAMES[chosen]:
            raise EngineError(
                f"asked for {ORT_NAMES[chosen]}, but ONNX Runtime loaded {loaded}; "
                "run `mmray doctor`, or choose provider=cpu"
            )
        self.provider: str = chosen
        self.inputs: list[str] = [value.name for value in self._session.get_inputs()]
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
