"""Random batches as `mmray.batching.pack` makes them, of any number of records and rows."""

import numpy as np
import torch

from mmray.preprocess.spec import AudioSpec, ImageSpec, PreprocessSpec, TextSpec

SPEC = PreprocessSpec(image=ImageSpec(height=32, width=48), text=TextSpec(max_tokens=16), audio=AudioSpec())
VOCABULARY = 50

#: Batches that a graph must serve: some of every modality, and none of one or of all.
SIZES = (
    {"records": 1, "images": 1, "texts": 1, "tokens": 1, "patches": 1},
    {"records": 9, "images": 4, "texts": 7, "tokens": 16, "patches": 20},
    {"records": 3, "images": 0, "texts": 3, "tokens": 5, "patches": 4},
    {"records": 3, "images": 3, "texts": 0, "tokens": 5, "patches": 4},
    {"records": 3, "images": 3, "texts": 3, "tokens": 5, "patches": 0},
    {"records": 2, "images": 0, "texts": 0, "tokens": 8, "patches": 0},
)


def feeds(records, images, texts, tokens, patches, seed=0):
    """Rows belong to random records; every record is present where a row is its own."""
    random = np.random.default_rng(seed)
    rows = [random.permutation(records)[:images], random.permutation(records)[:texts]]
    rows.append(random.integers(0, records, patches))
    present = np.zeros((records, 3), np.bool_)
    for column, values in enumerate(rows):
        present[values, column] = True
    return {
        "present": present,
        "pixels": random.integers(0, 256, (images, 32, 48, 3)).astype(np.uint8),
        "pixels_row": rows[0].astype(np.int64),
        "input_ids": random.integers(0, VOCABULARY, (texts, tokens)).astype(np.int32),
        "attention_mask": (np.arange(tokens) <= random.integers(0, tokens, (texts, 1))).astype(np.int32),
        "text_row": rows[1].astype(np.int64),
        "log_mel": random.normal(size=(patches, 96, 64)).astype(np.float16),
        "log_mel_row": rows[2].astype(np.int64),
    }


def tensors(given):
    """The batch as a torch model takes it."""
    return {name: torch.from_numpy(array.copy()) for name, array in given.items()}
