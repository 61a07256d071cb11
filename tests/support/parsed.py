"""Small graphs from ONNX's text form, and what ONNX Runtime makes of them."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper, parser

from mmray.engine.cpu import kernel_options

HEAD = '<ir_version: 10, opset_import: ["": 20]>'


def parse(graph, **constants):
    """A model of one graph in ONNX's text form; the constants' shapes and types are their values'."""
    model = parser.parse_model(f"{HEAD}\n{graph}")
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    for node in model.graph.node:
        node.name = f"{node.output[0]}_node"
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model, **feeds):
    """Outputs of a model, as the engine sets ONNX Runtime up; one array where there is one output."""
    outputs = _session(model).run(None, feeds)
    return outputs[0] if len(outputs) == 1 else outputs


def kernels(model, folder):
    """How many nodes of which kind ONNX Runtime really runs on a CPU."""
    _session(model, folder / "optimized.onnx")
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def constants_of(model):
    """Values of a model's initializers by name."""
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


def nodes_of(model, *kinds):
    """A model's nodes of these kinds, in order."""
    return [node for node in model.graph.node if node.op_type in kinds]


def interface(model):
    """Name, type and shape of a model's inputs and outputs."""
    return [(value.name, str(value.type)) for value in (*model.graph.input, *model.graph.output)]


def _session(model, optimized=None):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    for key, value in kernel_options().items():
        options.add_session_config_entry(key, value)
    if optimized:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
