"""A small model that can really be trained, labelled records for it, and ways to spoil its graph.

Each modality alone tells the label: the picture's colour, a word, the pitch. The graph averages pixels,
tokens and frames, projects each mean to eight features, and a head fitted by least squares adds up what they
say.
"""

import json

import numpy as np
import onnx
from onnx import helper, numpy_helper, parser

from mmray.batching import pack
from mmray.engine import Engine
from mmray.preprocess import Preprocessor
from mmray.sources import ReadOptions, list_shards, read
from support.bundles import GOLDEN_ROWS, LABELS, SPEC, VOCABULARY, make_bundle, records_table, write_tokenizer
from support.media import clip, image_bytes
from support.tars import write_shard

WIDTH = 8  # features of each modality
COLOURS = ((200, 40, 40), (40, 180, 60), (40, 60, 200), (210, 200, 60))
WORDS = ("cat", "dog", "red", "blue")
PITCHES_HZ = (250, 700, 1600, 3500)

GRAPH = """
<ir_version: 10, opset_import: ["": 20]>
linear (bool[B,3] present, uint8[Ni,H,W,3] pixels, int64[Ni] pixels_row,
        int32[Nt,T] input_ids, int32[Nt,T] attention_mask, int64[Nt] text_row,
        float16[Np,F,K] log_mel, int64[Np] log_mel_row)
    => (float[B,4] logits, float[B,4] scores, float[B,24] features)
{
  batch = Shape <start = 0, end = 1> (present)
  wide = Concat <axis = 0> (batch, width)
  blank = ConstantOfShape (wide)
  narrow = Concat <axis = 0> (batch, one)
  none = ConstantOfShape (narrow)

  pixels_float = Cast <to = 1> (pixels)
  colour_255 = ReduceMean <keepdims = 0> (pixels_float, axes_1_2)
  colour = Div (colour_255, white)
  image_projected = MatMul (colour, image_weights)
  image_hidden = Relu (image_projected)
  image_index = Unsqueeze (pixels_row, one)
  image_pooled = ScatterND <reduction = "add"> (blank, image_index, image_hidden)

  words = Gather (table, input_ids)
  mask = Cast <to = 1> (attention_mask)
  mask_column = Unsqueeze (mask, two)
  seen = Mul (words, mask_column)
  word_sum = ReduceSum <keepdims = 0> (seen, one)
  word_count = ReduceSum <keepdims = 1> (mask, one)
  bag = Div (word_sum, word_count)
  text_projected = MatMul (bag, text_weights)
  text_hidden = Relu (text_projected)
  text_index = Unsqueeze (text_row, one)
  text_pooled = ScatterND <reduction = "add"> (blank, text_index, text_hidden)

  mel_float = Cast <to = 1> (log_mel)
  spectrum = ReduceMean <keepdims = 0> (mel_float, one)
  audio_projected = MatMul (spectrum, audio_weights)
  audio_hidden = Relu (audio_projected)
  audio_index = Unsqueeze (log_mel_row, one)
  audio_sum = ScatterND <reduction = "add"> (blank, audio_index, audio_hidden)
  each = Slice (audio_hidden, zero, one, one)
  each_zero = Mul (each, zero_float)
  each_one = Add (each_zero, one_float)
  audio_counted = ScatterND <reduction = "add"> (none, audio_index, each_one)
  audio_count = Max (audio_counted, one_float)
  audio_pooled = Div (audio_sum, audio_count)

  together = Concat <axis = 1> (image_pooled, text_pooled, audio_pooled)
  flags = Cast <to = 1> (present)
  flags_wide = MatMul (flags, spread)
  there = Cast <to = 9> (flags_wide)
  features = Where (there, together, zero_float)
  weighed = MatMul (features, head)
  logits = Add (weighed, bias)
  scores = Softmax <axis = 1> (logits)
}
"""


def write_labelled(folder, rows=120, split="test", seed=0, missing=0.2, labels=True, size=(24, 16)):
    """A shard of records, one in three in a group with the next; `missing` is each modality's chance."""
    random = np.random.default_rng(seed)
    records = []
    for i in range(rows):
        k = i % len(LABELS)
        colour = tuple(int(c) for c in np.clip(np.add(COLOURS[k], random.normal(0, 25, 3)), 0, 255))
        words = [WORDS[k], *random.choice(["a", "number", "truncated"], random.integers(1, 4))]
        sound = clip(seconds=0.6, hz=PITCHES_HZ[k] * random.uniform(0.9, 1.1), level=random.uniform(0.2, 0.8))
        fields = {
            "png": image_bytes(colour=colour, size=size),
            "txt": " ".join(random.permutation(words)).encode(),
            "wav": sound,
        }
        lost = [name for name in fields if random.random() < missing][:2]
        meta = {"label": LABELS[k], "caption_group": f"{split}-{i - i % 3 // 2}", "split": split}
        kept = {name: data for name, data in fields.items() if name not in lost}
        records.append((f"r{i:04d}", kept | {"json": json.dumps(meta if labels else {}).encode()}))
    write_shard(folder / f"{split}-000000.tar", records)
    return folder


def linear_model(head=None, bias=None):
    """The graph; without a head its logits are zero."""
    random = np.random.default_rng(3)
    constants = {
        **{"zero": np.array([0]), "one": np.array([1]), "two": np.array([2]), "width": np.array([WIDTH])},
        "axes_1_2": np.array([1, 2]),
        "white": np.float32(255),
        "zero_float": np.float32(0),
        "one_float": np.float32(1),
        "table": np.eye(max(VOCABULARY.values()) + 1, dtype=np.float32),
        "image_weights": random.normal(size=(3, WIDTH)),
        "text_weights": random.normal(size=(max(VOCABULARY.values()) + 1, WIDTH)),
        "audio_weights": random.normal(size=(SPEC.audio.mel_bins, WIDTH)) / 8,
        "spread": np.repeat(np.eye(3), WIDTH, axis=1),
        "head": np.zeros((3 * WIDTH, len(LABELS))) if head is None else head,
        "bias": np.zeros(len(LABELS)) if bias is None else bias,
    }
    model = parser.parse_model(GRAPH)
    for name, value in constants.items():
        array = np.asarray(value, np.float32 if np.asarray(value).dtype.kind == "f" else np.int64)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    for i, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{i}"
    onnx.checker.check_model(model, full_check=True)
    return model


def linear_bundle(folder, **changes):
    """A bundle with the model fitted to records of a training shard beside it."""
    tokenizer = write_tokenizer(folder.parent / "linear-tokenizer.json")
    (shard,) = list_shards([str(write_labelled(folder.parent / "linear-train", split="train", seed=9))])
    (block,) = read(shard, ReadOptions(block_rows=1000))
    feeds = pack(Preprocessor(SPEC, tokenizer)(block), SPEC)
    graph = folder.parent / "linear.onnx"
    onnx.save(linear_model(), graph)
    features = Engine(graph, provider="cpu")(feeds)["features"]
    targets = np.array([LABELS.index(json.loads(meta)["label"]) for meta in block["meta"].to_pylist()])
    inputs, wanted = [], []
    for flags in np.unique(feeds["present"], axis=0):
        inputs.append(np.where(np.repeat(flags, WIDTH), features, 0))
        wanted.append(np.where(np.eye(len(LABELS))[targets], 12.0, 0.0))
    inputs = np.concatenate(inputs)
    inputs = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    weights = np.linalg.lstsq(inputs, np.concatenate(wanted), rcond=1e-6)[0]
    onnx.save(linear_model(weights[:-1], weights[-1]), graph)
    golden = Engine(graph, provider="cpu")(
        pack(Preprocessor(SPEC, tokenizer)(records_table(GOLDEN_ROWS)), SPEC)
    )
    return make_bundle(
        folder, graph=graph, features=3 * WIDTH, golden_outputs=golden, name="linear", scorecard={}, **changes
    )


def with_permuted_labels(model):
    """Each label's score under the next one's name."""
    return _before(
        model,
        "logits",
        [helper.make_node("Gather", ["logits_before", "order"], ["logits"], axis=1)],
        order=np.array([1, 2, 3, 0]),
    )


def deaf(model):
    """Takes no notice of audio."""
    model = _copy(model)
    for node in model.graph.node:
        node.input[:] = ["heard" if name == "present" else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("And", ["present", "deafness"], ["heard"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([True, True, False]), "deafness"))
    return model


def overflowing(model):
    """Logits go through float16, in which they are infinite."""
    nodes = [
        helper.make_node("Mul", ["logits_before", "large"], ["logits_large"]),
        helper.make_node("Cast", ["logits_large"], ["logits_half"], to=onnx.TensorProto.FLOAT16),
        helper.make_node("Cast", ["logits_half"], ["logits"], to=onnx.TensorProto.FLOAT),
    ]
    return _before(model, "logits", nodes, large=np.float32(1e6))


def with_near_zero_scale(model, scale=1e-6):
    """The same model, whose head has the inverse of a near-zero scale of a feature folded in.

    A feature that hardly varies was divided by its standard deviation; folded into the head, that division
    makes an enormous weight, and the bias takes its mean away again.
    """
    model = _copy(model)
    initializers = {i.name: i for i in model.graph.initializer}
    head, bias = (numpy_helper.to_array(initializers[name]) for name in ("head", "bias"))
    enormous = np.random.default_rng(5).normal(size=(1, len(LABELS))) / scale
    for name, value in (("head", np.concatenate([head, enormous])), ("bias", bias)):
        initializers[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((24, 1), np.float32), "constant"))
    at = next(i for i, node in enumerate(model.graph.node) if "head" in node.input)
    model.graph.node[at].input[0] = "features_and_constant"
    model.graph.node.insert(
        at, helper.make_node("Concat", ["features", "still"], ["features_and_constant"], axis=1)
    )
    model.graph.node.insert(at, helper.make_node("MatMul", ["features", "constant"], ["still"]))
    return model


def _before(model, name, nodes, **constants):
    """The model with nodes between what made an output, now called `<name>_before`, and the output."""
    model = _copy(model)
    at = next(i for i, node in enumerate(model.graph.node) if name in node.output)
    model.graph.node[at].output[:] = [f"{name}_before"]
    for node in reversed(nodes):
        model.graph.node.insert(at + 1, node)
    for constant, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), constant))
    return model


def _copy(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
