"""Buffers of batches of one shape on the host and on the device, and the sessions that compute them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np
import onnxruntime as ort

from mmray.batching import Feeds
from mmray.engine.pinned import pin

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}

S = TypeVar("S")


class Bound:
    """Fixed buffers of inputs and outputs, for batches of one shape. For one thread.

    Fill `feeds`, then `send`, `compute` and `fetch`. Two of one engine may be used by two threads: while one
    computes, the other copies.

    Args:
        session: that computes.
        feeds: host arrays of the batches' shapes, one for each input.
        device: "cuda" or "cpu", where the session needs its inputs.
    """

    def __init__(self, session: ort.InferenceSession, feeds: Feeds, device: str) -> None:
        self.feeds = feeds
        self._session = session
        if device == "cuda":
            for array in feeds.values():
                pin(array)
        self._inputs = {
            name: ort.OrtValue.ortvalue_from_numpy(array, device, 0) for name, array in feeds.items()
        }
        self._binding = session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        self._names = [output.name for output in session.get_outputs()]
        records = len(feeds["present"])
        #: Bytes that `send` and `fetch` copy, except outputs whose size only the session knows.
        self.sent_bytes = sum(array.nbytes for array in feeds.values())
        self.fetched_bytes = 0
        for output in session.get_outputs():
            widths, dtype = output.shape[1:], _DTYPES.get(output.type)
            if dtype is None or not all(isinstance(width, int) for width in widths):
                self._binding.bind_output(output.name, device)
                continue
            shape = (records, *widths)
            value = ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, device, 0)
            self._binding.bind_ortvalue_output(output.name, value)
            self.fetched_bytes += int(np.prod(shape)) * np.dtype(dtype).itemsize

    def send(self) -> None:
        """Copy the inputs to the device."""
        for name, value in self._inputs.items():
            value.update_inplace(self.feeds[name])

    def compute(self) -> None:
        """Run the graph; returns when the device has finished."""
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()

    def fetch(self) -> Feeds:
        """Outputs as new arrays on the host."""
        return dict(zip(self._names, self._binding.copy_outputs_to_cpu(), strict=True))


class Sessions(Generic[S]):
    """One session for each shape of a convolution, up to a maximum number.

    ONNX Runtime's CUDA provider keeps a convolution's plan only for the latest shape, in its session: a
    session with a single shape plans once. Not yet proven on a GPU; `jobs/prove_gpu.py` compares.

    Args:
        first: the existing session; the first shape gets it.
        load: makes another one; None: all shapes share the first.
        most: sessions at once. A further shape shares the least recently used one, and so does a shape whose
            session does not load, for example for lack of device memory: it plans again, with the same
            results.
    """

    def __init__(self, first: S, load: Callable[[], S] | None, most: int) -> None:
        self._first = first
        self._load = load
        self._most = most
        self._of: OrderedDict[Hashable, S] = OrderedDict()  # the most recent last
        self._made = 1
        self._lock = Lock()

    def __call__(self, shape: Hashable) -> S:
        """The session of a shape."""
        if self._load is None:
            return self._first
        with self._lock:
            if shape not in self._of:
                self._of[shape] = self._next(self._load)
            self._of.move_to_end(shape)
            return self._of[shape]

    def _next(self, load: Callable[[], S]) -> S:
        """The first one, a new one up to the maximum, or the least recently used one."""
        if not self._of:
            return self._first
        if self._made < self._most:
            try:
                made = load()
            except Exception:  # from ONNX Runtime, without a common base; the first session did load
                self._most = self._made  # the next one would not load either
            else:
                self._made += 1
                return made
        return self._of.popitem(last=False)[1]


def sizes_of(feeds: Feeds) -> tuple[tuple[str, int], ...]:
    """The part of a batch's shape that convolutions depend on: rows of each input, not widths of texts."""
    return tuple(sorted((name, len(array)) for name, array in feeds.items()))


def placement(session: ort.InferenceSession, names: dict[str, str]) -> dict[str, list[str]]:
    """Operators of a session's nodes by the provider that they were placed on.

    Args:
        session: loaded with `session.record_ep_graph_assignment_info`.
        names: our names of ONNX Runtime's providers.
    """
    placed: dict[str, list[str]] = {}
    subgraphs: list[Any] = session.get_provider_graph_assignment_info()
    for subgraph in subgraphs:
        nodes = placed.setdefault(names.get(subgraph.ep_name, subgraph.ep_name), [])
        nodes += [node.op_type for node in subgraph.get_nodes()]
    return placed
