"""Small ONNX encoders as people bring them: float NCHW pixels, int64 token ids, a float32 log-mel image."""

import numpy as np
import onnx
from onnx import numpy_helper, parser

WIDTHS = {"image": 3, "text": 4, "audio": 5}

IMAGE = """
<ir_version: 8, opset_import: ["" : 17]>
image (float[N, 3, 16, 16] pixel_values) => (float[N, 3] image_embeds) {
    means = ReduceMean <axes = [2, 3], keepdims = 0> (pixel_values)
    image_embeds = MatMul (means, weight)
}
"""
TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
text (int64[N, T] input_ids, int64[N, T] attention_mask) => (float[N, 4] text_embeds) {
    tokens = Gather <axis = 0> (weight, input_ids)
    mask = Cast <to = 1> (attention_mask)
    axis = Constant <value = int64[1] {1}> ()
    last = Constant <value = int64[1] {2}> ()
    columns = Unsqueeze (mask, last)
    kept = Mul (tokens, columns)
    total = ReduceSum <keepdims = 0> (kept, axis)
    count = ReduceSum <keepdims = 1> (mask, axis)
    text_embeds = Div (total, count)
}
"""
AUDIO = """
<ir_version: 8, opset_import: ["" : 17]>
audio (float[N, 1, 24, 16] mel) => (float[N, 5] audio_embeds) {
    image = ReduceMean <axes = [1, 2], keepdims = 0> (mel)
    audio_embeds = MatMul (image, weight)
}
"""
HEAD = """
<ir_version: 8, opset_import: ["" : 17]>
head (float[B, 12] features, bool[B, 3] present) => (float[B, 4] logits) {
    evidence = MatMul (features, weight)
    flags = Cast <to = 1> (present)
    prior = MatMul (flags, bias)
    logits = Add (evidence, prior)
}
"""


def random(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


WEIGHTS = {"image": random(1, 3, 3), "text": random(2, 20, 4), "audio": random(3, 16, 5)}
HEAD_WEIGHT, HEAD_BIAS = random(4, 4, 12), random(5, 4)


def save(path, text, **weights):
    """Write a graph in ONNX's textual syntax; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    model = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    onnx.save(model, path)
    return path


def save_encoders(folder):
    """image.onnx, text.onnx, audio.onnx."""
    for name, text in (("image", IMAGE), ("text", TEXT), ("audio", AUDIO)):
        save(folder / f"{name}.onnx", text, weight=WEIGHTS[name])


def by_hand(feeds, *, scale=1.0, mean=0.0, std=1.0):
    """Features of the three encoders in numpy; pixels as (x * scale - mean) / std."""
    present = feeds["present"]
    pixels = (feeds["pixels"].astype(np.float64) * scale - mean) / std
    image = pixels.mean(axis=(1, 2)) @ WEIGHTS["image"]
    mask = feeds["attention_mask"][:, :, None]
    text = (WEIGHTS["text"][feeds["input_ids"]] * mask).sum(axis=1) / mask.sum(axis=1)
    audio = feeds["log_mel"].astype(np.float64).mean(axis=1) @ WEIGHTS["audio"]
    parts = []
    for values, row in ((image, "pixels_row"), (text, "text_row"), (audio, "log_mel_row")):
        pooled = np.zeros((len(present), values.shape[1]))
        for record in np.unique(feeds[row]):
            pooled[record] = values[feeds[row] == record].mean(axis=0)
        parts.append(np.where(present[:, [len(parts)]], pooled, 0))
    return np.concatenate(parts, axis=1)
