"""A small random model of all modalities, and batches for it, to prune and to train for int8."""

import numpy as np
import torch
from torch import nn

from mmray.models.efficientnet_lite import EfficientNetLite
from mmray.models.fused import FusedModel
from mmray.models.head import SubsetHead
from mmray.models.minilm import MiniLM
from mmray.models.yamnet import YAMNet
from mmray.preprocess.spec import AudioSpec, ImageSpec, PreprocessSpec, TextSpec

SPECS = {
    "image": ImageSpec(height=32, width=32),
    "text": TextSpec(max_tokens=16),
    "audio": AudioSpec(max_s=2.0),
}
WORDS, CLASSES = 3000, 4


class FewBlocks(EfficientNetLite):
    """The stem, a block that strides, one that is skipped over, and the head: an export takes seconds."""

    def __init__(self):
        super().__init__(width=0.25, depth=0.3, features=32)
        unit, block = type(self.stem), type(self.blocks[0])
        self.blocks = nn.Sequential(*self.blocks[:2], block(8, 8, kernel=5, stride=1, expansion=8))
        self.head = unit(8, self.dim)


ENCODERS = {
    "image": FewBlocks,
    "text": lambda: MiniLM(WORDS, layers=1, hidden=32, heads=4, intermediate=64, positions=16),
    "audio": lambda: YAMNet(width=0.5, layers=3),
}


def model_of(*modalities, seed=0):
    """The model and its spec. Its activations neither vanish nor grow, so that errors would show."""
    torch.manual_seed(seed)
    encoders = {m: ENCODERS[m]() for m in modalities}
    model = FusedModel(encoders, SubsetHead([e.dim for e in encoders.values()], CLASSES))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    for weight in model.head.weights:
        nn.init.normal_(weight, std=0.3)
    return model.eval(), PreprocessSpec(**{m: SPECS[m] for m in modalities})


def batch_of(spec, rows=6, seed=0):
    """A batch of random records that have every modality, as `mmray.batching.pack` makes them."""
    random, place = np.random.default_rng(seed), np.arange(rows)
    feeds = {"present": np.ones((rows, len(spec.modalities)), np.bool_)}
    if spec.image:
        pixels = random.integers(0, 256, (rows, spec.image.height, spec.image.width, 3))
        feeds |= {"pixels": pixels.astype(np.uint8), "pixels_row": place}
    if spec.text:
        ids = random.integers(1, WORDS, (rows, 5)).astype(np.int32)
        feeds |= {"input_ids": ids, "attention_mask": np.ones_like(ids), "text_row": place}
    if spec.audio:
        patches = random.normal(-2, 3, (rows, spec.audio.patch_frames, spec.audio.mel_bins))
        feeds |= {"log_mel": patches.astype(np.float16), "log_mel_row": place}
    return feeds


def tensors(feeds):
    """A batch for torch."""
    return {name: torch.from_numpy(array) for name, array in feeds.items()}
