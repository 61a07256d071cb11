"""Graphs that OpenVINO can load.

Its ONNX importer (2025.4, in onnxruntime-openvino 1.24.1) refuses ScatterND with a reduction, by which graphs
pool the rows of a record. ONNX Runtime gives it such nodes nevertheless, and with the stamps' graph the
process dies by a signal. So these nodes become ScatterElements, which it computes. Later versions of OpenVINO
take ScatterND as well (openvino#36072).
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmray.digests import sha256_of_all
from mmray.engine.device import engine_version
from mmray.engine.prepack import made_once
from mmray.errors import EngineError

if TYPE_CHECKING:
    import onnx

_LARGEST_FILE = 1 << 30  # bytes of weights in one ONNX file; a file of protobuf ends at 2 GiB


def fitting_graph(files: Sequence[Path], cache: Path) -> Path:
    """The graph as OpenVINO can load it: the given one, or one that is kept in the cache.

    Args:
        files: ONNX file, and its external weights.
        cache: permanent directory.

    Raises:
        EngineError: the package `onnx`, which rewrites graphs, is missing, or the files changed meanwhile.
    """
    if not _mentions(files[0], b"ScatterND"):
        return files[0]
    digest = sha256_of_all(files)
    key = hashlib.sha256(f"{digest} {engine_version()}".encode()).hexdigest()[:24]
    return made_once(cache / "openvino" / key, files, digest, _rewrite)


def _mentions(graph: Path, operator: bytes) -> bool:
    if not graph.is_file() or not graph.stat().st_size:
        return False
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(operator) >= 0


def _rewrite(source: Path, target: Path) -> None:
    try:
        import onnx
    except ImportError as e:
        raise EngineError(
            f"{source}: OpenVINO cannot load its ScatterND, and the package that rewrites it is missing; "
            "run pip install onnx"
        ) from e
    model = onnx.load(source)
    nodes = [new for node in model.graph.node for new in _fitting(node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, target, save_as_external_data=model.ByteSize() > _LARGEST_FILE, location="weights")


def _fitting(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """The nodes that take a node's place.

    ScatterND adds rows [N, …] at the places [N, 1]; ScatterElements wants a place for each element. Places of
    any other shape fail in the Reshape, and then the golden outputs are not computed.
    """
    from onnx import TensorProto, helper

    reduction = next((a.s.decode() for a in node.attribute if a.name == "reduction"), "none")
    if node.op_type != "ScatterND" or node.domain or reduction == "none":
        yield node
        return
    data, places, rows = node.input
    own = node.output[0]
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    yield helper.make_node("Shape", [rows], [f"{own}/shape"])
    yield helper.make_node("Shape", [rows], [f"{own}/count"], start=0, end=1)
    yield helper.make_node("Shape", [rows], [f"{own}/widths"], start=1)
    yield helper.make_node("Shape", [f"{own}/widths"], [f"{own}/rank"])
    yield helper.make_node("ConstantOfShape", [f"{own}/rank"], [f"{own}/ones"], value=one)
    yield helper.make_node("Concat", [f"{own}/count", f"{own}/ones"], [f"{own}/column"], axis=0)
    yield helper.make_node("Reshape", [places, f"{own}/column"], [f"{own}/places"])
    yield helper.make_node("Expand", [f"{own}/places", f"{own}/shape"], [f"{own}/everywhere"])
    yield helper.make_node(
        "ScatterElements",
        [data, f"{own}/everywhere", rows],
        [own],
        name=node.name,
        axis=0,
        reduction=reduction,
    )
