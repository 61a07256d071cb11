"""A real ONNX graph that is small enough to compute by hand, with the inputs and outputs of a bundle's graph.

Its three features are the mean pixel / 255, the mean over the tokens of TOKEN_VALUE, and the mean log-mel;
the logits are a fixed linear map of them. A token beyond the end of TOKEN_VALUE makes the graph fail.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FEATURES = 3
NAN_TOKEN, POISON_TOKEN = 11, 12  # the first gives scores of NaN, the second is out of the table's range
TOKEN_VALUE = np.linspace(-1, 1, POISON_TOKEN).astype(np.float32)
TOKEN_VALUE[NAN_TOKEN] = np.nan


def head(classes):
    """Weights float32 [3, classes]."""
    return (3 * np.random.default_rng(7).standard_normal((FEATURES, classes))).astype(np.float32)


def write_graph(path, classes=4, scale=1.0):
    """Write the graph as an ONNX file; another `scale` of its head makes it another model."""
    constants = {
        "zero": np.zeros(1, np.float32),
        "one": np.ones(1, np.float32),
        "white": np.float32(255),
        "table": TOKEN_VALUE,
        "head": head(classes) * np.float32(scale),
        "rows_1": np.array([1], np.int64),
        "pixel_axes": np.array([1, 2, 3], np.int64),
        "frame_axes": np.array([1, 2], np.int64),
        **{f"column_{k}": np.int64(k) for k in range(FEATURES)},
    }
    nodes = []

    def add(op, inputs, output, **attributes):
        nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def to_float(name):
        return add("Cast", [name], f"{name}_float", to=TensorProto.FLOAT)

    to_float("present")
    add("Shape", ["present"], "batch", start=0, end=1)
    add("ConstantOfShape", ["batch"], "blank")

    def sum_by_record(values, rows):
        return add("ScatterElements", ["blank", rows, values], f"{values}_sum", axis=0, reduction="add")

    def masked(values, column):
        flags = add("Gather", ["present_float", f"column_{column}"], f"{values}_flags", axis=1)
        # Where, not Mul: an absent modality counts for nothing even where its filler gives NaN.
        there = add("Cast", [flags], f"{values}_there", to=TensorProto.BOOL)
        chosen = add("Where", [there, values, "zero"], f"{values}_masked")
        return add("Unsqueeze", [chosen, "rows_1"], f"{values}_column")

    add("ReduceMean", [to_float("pixels"), "pixel_axes"], "brightness_255", keepdims=0)
    add("Div", ["brightness_255", "white"], "brightness")
    image = masked(sum_by_record("brightness", "pixels_row"), 0)

    add("Gather", ["table", "input_ids"], "token_values", axis=0)
    seen = add("Cast", ["attention_mask"], "seen", to=TensorProto.BOOL)
    add("Where", [seen, "token_values", "zero"], "seen_values")
    add("ReduceSum", ["seen_values", "rows_1"], "token_sum", keepdims=0)
    add("ReduceSum", [to_float("attention_mask"), "rows_1"], "token_count", keepdims=0)
    add("Div", ["token_sum", "token_count"], "tone")
    text = masked(sum_by_record("tone", "text_row"), 1)

    add("ReduceMean", [to_float("log_mel"), "frame_axes"], "patch", keepdims=0)
    add("Shape", ["patch"], "patches")
    add("Expand", ["one", "patches"], "each")
    add("Max", [sum_by_record("each", "log_mel_row"), "one"], "patch_count")
    add("Div", [sum_by_record("patch", "log_mel_row"), "patch_count"], "loudness")
    audio = masked("loudness", 2)

    add("Concat", [image, text, audio], "features", axis=1)
    add("MatMul", ["features", "head"], "logits")
    add("Softmax", ["logits"], "scores", axis=1)

    kinds = {
        "present": (TensorProto.BOOL, ["B", FEATURES]),
        "pixels": (TensorProto.UINT8, ["Ni", "H", "W", 3]),
        "pixels_row": (TensorProto.INT64, ["Ni"]),
        "input_ids": (TensorProto.INT32, ["Nt", "T"]),
        "attention_mask": (TensorProto.INT32, ["Nt", "T"]),
        "text_row": (TensorProto.INT64, ["Nt"]),
        "log_mel": (TensorProto.FLOAT16, ["Np", "F", "K"]),
        "log_mel_row": (TensorProto.INT64, ["Np"]),
    }
    widths = {"logits": classes, "scores": classes, "features": FEATURES}
    graph = helper.make_graph(
        nodes,
        "mean_of_all",
        [helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["B", width]) for n, width in widths.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def run_by_hand(feeds, classes=4, scale=1.0):
    """What the graph must give, in numpy and float64."""
    present = feeds["present"]
    features = np.zeros((len(present), FEATURES))
    for row, picture in zip(feeds["pixels_row"], feeds["pixels"], strict=True):
        features[row, 0] = picture.mean() / 255
    for row, ids, mask in zip(feeds["text_row"], feeds["input_ids"], feeds["attention_mask"], strict=True):
        features[row, 1] = TOKEN_VALUE[ids[mask == 1]].astype(np.float64).mean()
    for row in np.unique(feeds["log_mel_row"]):
        features[row, 2] = feeds["log_mel"][feeds["log_mel_row"] == row].astype(np.float64).mean()
    features[~present] = 0
    logits = features @ (head(classes) * np.float64(scale))
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    outputs = {"logits": logits, "scores": raised / raised.sum(axis=1, keepdims=True), "features": features}
    return {name: array.astype(np.float32) for name, array in outputs.items()}
