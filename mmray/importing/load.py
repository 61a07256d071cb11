"""Reads an ONNX file if the installed ONNX Runtime can run it. Each error names the remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import TensorProto, external_data_helper, helper

from mmray.errors import ModelError
from mmray.graphs import OPSET
from mmray.importing.files import check_fetched, check_graph_file

_LONGEST = 400  # characters kept of a library's message
_RUNTIME = f"the installed ONNX Runtime {ort.__version__}"
#: Domains whose operators ONNX Runtime checks itself.
_ITS_OWN = ("com.microsoft", "com.ms.")
_NEW_IR = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")
_NEW_OPSET = re.compile(r"Current official support for domain (\S+) is till opset (\d+)")
_NOISE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from \S+ failed:|/onnxruntime_src/\S+ ")


def load_graph(path: Path, *, weights: bool = True) -> onnx.ModelProto:
    """Read an ONNX file, with external data if weights are wanted.

    Raises:
        ModelError: the file is missing, not ONNX, incomplete, or too new for the installed ONNX Runtime.
    """
    check_graph_file(path)
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as e:  # protobuf's errors share no base with onnx's
        raise ModelError(
            f"{path}: not an ONNX file, or an incomplete one ({path.stat().st_size:,} bytes): "
            f"{one_line(e)}; download or export it again"
        ) from e
    if not model.graph.node or not model.opset_import:
        lacks = "operator set" if model.graph.node else "node"
        raise ModelError(f"{path}: not an ONNX model: its graph has no {lacks}; export it again")
    _check_versions(model, path)
    _check_operators(model, path)
    if weights:
        _load_weights(model, path)
    return model


def open_session(model: Path | onnx.ModelProto, where: str) -> ort.InferenceSession:
    """A session of the graph on ONNX Runtime's CPU provider, with one thread.

    Raises:
        ModelError: it does not load.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4  # failures here are expected, or raised as our own errors
    options.intra_op_num_threads = 1
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as e:  # ONNX Runtime's own exception types share no base
        raise ModelError(f"{where}: {_RUNTIME} does not load it: {one_line(e)}") from e


def one_line(failure: BaseException) -> str:
    """A library's message, shortened to fit into an error."""
    text = _NOISE.sub("", " ".join(str(failure).split())) or type(failure).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def nodes_of(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of subgraphs included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from nodes_of(inner)


def _check_versions(model: onnx.ModelProto, path: Path) -> None:
    """Ask ONNX Runtime itself, with a one-node model of the same versions."""
    versions = {o.domain: o.version for o in model.opset_import}
    if not {"", "ai.onnx"} & versions.keys():
        versions[""] = OPSET
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "versions", [x], [y])
    opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    try:
        open_session(helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version), str(path))
    except ModelError as e:
        text = str(e.__cause__)
        if found := _NEW_IR.search(text):
            raise ModelError(
                f"{path}: is of IR version {found[1]}; {_RUNTIME} reads versions up to {found[2]}: save it "
                f"with model.ir_version = {found[2]}, or export it with an older onnx"
            ) from e
        if found := _NEW_OPSET.search(text):
            domain = "" if found[1] == "ai.onnx" else found[1]
            wanted = max(v for d, v in versions.items() if (d if d != "ai.onnx" else "") == domain)
            remedy = f"opset_version={OPSET}" if not domain else f"version {found[2]} of them"
            raise ModelError(
                f"{path}: needs opset {wanted} of {found[1]}; {_RUNTIME} reads up to {found[2]}: export it "
                f"again with {remedy}"
            ) from e
        raise


def _check_operators(model: onnx.ModelProto, path: Path) -> None:
    """Refuse operators that neither ONNX nor ONNX Runtime has."""
    local = {(function.domain, function.name) for function in model.functions}
    for graph in (model.graph, *model.functions):
        for node in nodes_of(graph):
            domain = "" if node.domain == "ai.onnx" else node.domain
            known = (node.domain, node.op_type) in local or domain.startswith(_ITS_OWN)
            if known or onnx.defs.has(node.op_type, domain=domain):
                continue
            name = f"node {node.name!r}" if node.name else f"the node that gives {node.output[0]!r}"
            what = f"{path}: {name} is the operator {node.op_type} of the domain {node.domain or 'ai.onnx'!r}"
            if domain == "ai.onnx.contrib":
                raise ModelError(
                    f"{what}: its tokenizer or preprocessing is in the graph (onnxruntime-extensions); "
                    "export the model without it: mmray tokenizes and decodes, see docs/your-model.md"
                )
            raise ModelError(
                f"{what}, which {_RUNTIME} does not know; export the model with operators of ONNX alone"
            )


def _load_weights(model: onnx.ModelProto, path: Path) -> None:
    """Load external data from files beside the graph."""
    tensors = [t for t in _tensors(model) if external_data_helper.uses_external_data(t)]
    for name in dict.fromkeys(_location(tensor) for tensor in tensors):
        try:
            check_fetched(path.parent / name)
        except ModelError as e:
            raise ModelError(
                f"{path}: its weights are in {name!r} in the same directory; keep that name; {e}"
            ) from e
    for tensor in tensors:
        folder = path.parent
        file = folder / _location(tensor)
        # In a hub's cache both are links into one directory. Other links are refused below.
        if file.is_symlink() and path.is_symlink() and file.resolve().parent == path.resolve().parent:
            folder = file.resolve().parent
            next(e for e in tensor.external_data if e.key == "location").value = file.resolve().name
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except Exception as e:  # the checker's errors, and ValueError where the file is too short
            raise ModelError(
                f"{file}: not the weights of {path.name}: {one_line(e)}; download it again"
            ) from e


def _location(tensor: TensorProto) -> str:
    return next((str(entry.value) for entry in tensor.external_data if entry.key == "location"), "")


def _tensors(model: onnx.ModelProto) -> Sequence[TensorProto]:
    """Every constant of a model, including those of nodes and subgraphs."""
    found = list(model.graph.initializer)
    for graph in (model.graph, *model.functions):
        for node in nodes_of(graph):
            for attribute in node.attribute:
                found += [attribute.t] if attribute.HasField("t") else []
                found += attribute.tensors
                for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                    found += inner.initializer
    return found
