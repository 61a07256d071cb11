"""Cascades of the small bundle: text first, then the rest, with a threshold of one's own."""

import numpy as np
import onnx

from mmray.bundle import Cascade, CascadeStage, Exit, NewVariant, extend_bundle
from mmray.variants.cascades.evidence import modality_of
from mmray.variants.cascades.staging import split_stages
from support.bundles import records_table, small_bundle
from support.media import clip, image_bytes

WORDS = ("a", "cat", "dog", "red", "blue", "number")
TEXT_FIRST = (("text",), ("audio", "image"))


def cascaded(folder, threshold, *, parent=None, stages=TEXT_FIRST, disagreement=0.05, temperature=1.0):
    """The parent bundle with a variant `cascade`, which records with text leave at that confidence."""
    exits = [{"+".join(stage): Exit(threshold=threshold, temperature=temperature)} for stage in stages[:-1]]
    return cut_into(folder, parent or small_bundle(), stages, exits, disagreement=disagreement)


def cut_into(folder, parent, stages, exits, *, disagreement=0.05, half=None, name="cascade"):
    """The parent bundle with its graph in stages; `half`: the graph for those that look at half images."""
    graphs = []
    parts = split_stages(
        onnx.load(parent.graph("fp32")), stages, parent.golden()[0], onnx.load(half) if half else None
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(parts):
        graphs.append(folder.parent / f"{folder.name}-{number}.onnx")
        onnx.save(part, graphs[-1])
    entries = [
        CascadeStage(file=f"variants/{name}-{i}.onnx", modalities=tuple(map(modality_of, stage)), exits=rules)
        for i, (stage, rules) in enumerate(zip(stages, [*exits, {}], strict=True))
    ]
    entry = parent.manifest.variants["fp32"].model_copy(
        update={"parent": "fp32", "cascade": Cascade(stages=tuple(entries), disagreement=disagreement)}
    )
    new = NewVariant(entry, parent.graph("fp32"), parent.golden()[1], tuple(graphs))
    card = {"variants": {"fp32": {}, name: {"passed": True}}}
    return extend_bundle(folder, parent, {name: new}, scorecard=card, origin={})


def mixed_records(rows=48, seed=0):
    """Every mix of modalities, each with another picture, text and sound."""
    random = np.random.default_rng(seed)
    made = []
    for i in range(rows):
        has = [bool((i % 7 + 1) >> bit & 1) for bit in range(3)]
        record = {}
        if has[0]:
            record["image"] = image_bytes(colour=tuple(int(c) for c in random.integers(0, 255, 3)))
        if has[1]:
            record["text"] = " ".join(random.choice(WORDS, random.integers(1, 6))).encode()
        if has[2]:
            record["audio"] = clip(hz=int(random.integers(200, 2000)), seconds=1.0)
        made.append(record)
    return records_table(made)
