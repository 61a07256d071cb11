"""Weights shared by the processes of a machine: a graph optimized once for its CPU, with weights in a file.

ONNX Runtime maps that file instead of copying it, and its weights already have the layout of the kernels.
Stamps bundle, three processes: about 55 % of the memory, a third of the time to load (docs/log.md).
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import onnxruntime as ort
from filelock import FileLock

from mmray.digests import is_sealed, seal, sha256_of_all
from mmray.engine.cpu import LEFT_OUT, kernel_options
from mmray.engine.device import device_type, engine_version
from mmray.errors import EngineError

_LEAST_BYTES = 16 << 10  # minimum bytes of a weight in the file; smaller ones stay in the graph
_ALIGNED = 64  # bytes: alignment that kernels expect of packed weights
# Offset and length of a weight, in a graph's bytes (onnx.proto, TensorProto.external_data).
_PLACES = re.compile(rb"\n\x06(?:offset|length)\x12.(\d+)", re.DOTALL)


def shared_graph(files: Sequence[Path], cache: Path) -> Path:
    """The graph in the form shared by this machine's processes; made if it is missing or damaged.

    It is kept under the sha256 of its inputs.

    Args:
        files: ONNX file, and its external weights.
        cache: permanent directory.

    Raises:
        EngineError: the files changed while it was made.
    """
    digest = sha256_of_all(files)
    return made_once(cache / "prepacked" / _key(digest), files, digest, _prepack)


def made_once(place: Path, files: Sequence[Path], digest: str, make: Callable[[Path, Path], None]) -> Path:
    """A graph made from another one, kept for all processes of this machine; made if missing or damaged.

    Args:
        place: its directory, named by all that it depends on.
        files: ONNX file, and its external weights.
        digest: theirs, by `sha256_of_all`.
        make: writes the graph, from the ONNX file to a path; further files may be beside it.

    Raises:
        EngineError: the files changed while it was made.
    """
    made_graph = place / "graph.onnx"
    if is_sealed(place):
        return made_graph
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_suffix(".lock")):  # actors start at the same time; one makes it, the others wait
        if not is_sealed(place):
            with tempfile.TemporaryDirectory(dir=place.parent, prefix=".tmp-") as temporary:
                made = Path(temporary) / "made"
                made.mkdir()
                make(files[0], made / made_graph.name)
                if sha256_of_all(files) != digest:
                    raise EngineError(f"{files[0]}: changed while it was read; run again")
                seal(made)
                shutil.rmtree(place, ignore_errors=True)
                made.rename(place)
    return made_graph


def _prepack(graph: Path, target: Path) -> None:
    """Save the graph, with its weights in the layout of the kernels if they can be read from the file.

    ONNX Runtime (1.31) writes weights without padding, but its kernels assume that packed weights in the
    mapped file are aligned: after a weight of odd size the process dies by a signal. In that case each
    process packs its own weights.
    """
    _save(graph, target, packed=True)
    if not is_aligned(target):
        for file in target.parent.iterdir():
            file.unlink()
        _save(graph, target, packed=False)


def is_aligned(graph: Path) -> bool:
    """Whether all weights in a file are aligned as kernels expect."""
    return all(int(place) % _ALIGNED == 0 for place in _PLACES.findall(graph.read_bytes()))


def _save(graph: Path, target: Path, *, packed: bool) -> None:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # it warns that the result is for this machine, which it is
    options.optimized_model_filepath = str(target)
    for key, value in {
        "session.optimized_model_external_initializers_file_name": f"{target.name}.data",
        "session.optimized_model_external_initializers_min_size_in_bytes": str(_LEAST_BYTES),
        "session.save_external_prepacked_constant_initializers": str(int(packed)),
        **kernel_options(),  # as in the engine: their effects are saved with the graph
    }.items():
        options.add_session_config_entry(key, value)
    providers = ["CPUExecutionProvider"]
    ort.InferenceSession(str(graph), options, providers=providers, disabled_optimizers=LEFT_OUT)


def _key(digest: str) -> str:
    """A name from the graph, ONNX Runtime's version and optimizers, and the CPU's model and features."""
    about = f"{digest} {engine_version()} without {LEFT_OUT} {device_type('cpu')}"
    return hashlib.sha256(about.encode()).hexdigest()[:24]
