"""One variant loaded in ONNX Runtime: jobs and servers use `onnxruntime` only through this package.

It loads the requested provider or raises: ONNX Runtime itself falls back to the CPU with only a log line.
"""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from mmray.batching import Feeds
from mmray.engine.bound import Bound, Sessions, placement, sizes_of
from mmray.engine.compiled import Compiled
from mmray.engine.cpu import LEFT_OUT, kernel_options
from mmray.engine.device import device_name, device_type, engine_version
from mmray.engine.openvino import fitting_graph
from mmray.engine.prepack import shared_graph
from mmray.engine.providers import (
    ON_CPU,
    ORT_NAMES,
    Provider,
    Setup,
    available_providers,
    best_provider,
    provider_chain,
    remedy,
)
from mmray.errors import EngineError

__all__ = [
    "ON_CPU",
    "Bound",
    "Compiled",
    "Engine",
    "Provider",
    "Setup",
    "available_providers",
    "best_provider",
    "device_name",
    "device_type",
    "engine_version",
    "fitting_graph",
    "shared_graph",
]

_ERROR, _FATAL = 3, 4  # severities of ONNX Runtime's log
# Sessions of one graph on a GPU, each with its own weights there (117 MB for the stamps) and working memory.
_SESSIONS = 6


class Engine:
    """A loaded graph.

    Args:
        graph: ONNX file.
        provider: where to run; "auto" takes CUDA if this installation and machine have it, else the CPU.
        threads: threads of one inference; at most the CPUs that the caller owns.
        prepacked: whether the graph is from `shared_graph`, which is already optimized.
        setup: of the provider.

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
        chosen = provider if provider != "auto" else best_provider()
        setup = setup or Setup()
        if not available_providers()[chosen]:
            raise EngineError(f"this build of ONNX Runtime has no {ORT_NAMES[chosen]}; {remedy(chosen)}")
        # Warnings about this machine's devices do not help a user. On a GPU, cuDNN's front end also logs an
        # error for each convolution that falls back to its older interface ("No execution plans support the
        # graph"): it is computed anyway, and real failures are raised.
        severity = _FATAL if chosen in ("cuda", "tensorrt") else _ERROR
        ort.set_default_logger_severity(severity)
        options = ort.SessionOptions()
        options.log_severity_level = severity
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        # Spinning threads halve the speed as soon as another process needs the core.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        for key, value in kernel_options().items():
            options.add_session_config_entry(key, value)
        # A memory pattern is kept for each shape of batch, and shapes on a CPU change all the time.
        options.enable_mem_pattern = chosen == "cuda"
        if setup.record_placement:
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if setup.trace:
            options.enable_profiling = True
            options.profile_file_prefix = str(setup.trace)
        if prepacked:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if chosen in ("cuda", "tensorrt"):
            ort.preload_dlls()
        providers = provider_chain(chosen, setup, threads)

        def load() -> ort.InferenceSession:
            return ort.InferenceSession(
                str(graph), options, providers=providers, disabled_optimizers=LEFT_OUT
            )

        try:
            self._session = load()
        except Exception as e:  # ONNX Runtime's own exception types share no base
            raise EngineError(f"{graph}: ONNX Runtime cannot load it on {chosen}: {e}") from e
        self._sessions = Sessions(self._session, load if chosen == "cuda" else None, _SESSIONS)
        loaded = self._session.get_providers()[0]
        if loaded != ORT_NAMES[chosen]:
            raise EngineError(
                f"asked for {ORT_NAMES[chosen]}, but ONNX Runtime loaded {loaded}; "
                "run `mmray doctor`, or choose provider=cpu"
            )
        self.provider: str = chosen
        #: The provider's compiled files; to be kept once its answers are checked.
        self.compiled: Compiled | None = None
        self.inputs: list[str] = [value.name for value in self._session.get_inputs()]
        self.outputs: list[str] = [output.name for output in self._session.get_outputs()]

    @property
    def wants_padding(self) -> bool:
        """Whether batches should have few shapes, and every modality at least one row.

        A GPU plans its kernels for each shape, and cuDNN refuses an empty convolution.
        """
        return self.provider not in ON_CPU

    def width(self, name: str) -> int:
        """Last dimension of an input."""
        return next(int(value.shape[-1]) for value in self._session.get_inputs() if value.name == name)

    def bound(self, feeds: Feeds) -> Bound:
        """Buffers for batches that have the shapes of these arrays, on the host and on the device.

        Args:
            feeds: an array for each input, as `mmray.batching.blank` makes them; they become the buffers.
        """
        inputs = {name: feeds[name] for name in self.inputs}
        return Bound(self._sessions(sizes_of(inputs)), inputs, "cuda" if self.provider == "cuda" else "cpu")

    def end_trace(self) -> tuple[Path, int]:
        """The file with the times of nodes, if `Setup.trace` was set, and its start (Unix time, ns)."""
        began = self._session.get_profiling_start_time_ns()
        return Path(self._session.end_profiling()), began

    def placement(self) -> dict[str, list[str]]:
        """Operators of the nodes by provider ("cuda", "cpu"), if `Setup.record_placement` was set."""
        return placement(self._session, {theirs: ours for ours, theirs in ORT_NAMES.items()})

    def __call__(self, feeds: Feeds) -> Feeds:
        """Run one batch of any shape.

        Args:
            feeds: arrays as `mmray.batching.pack` makes them.

        Returns:
            ``logits`` and ``scores`` float32 [B, C], ``features`` float32 [B, D].
        """
        wanted = {name: feeds[name] for name in self.inputs}
        return dict(zip(self.outputs, self._session.run(self.outputs, wanted), strict=True))
