"""Code that the contenders of `make bench` share with mmray: preprocessing by row, and its fp32 graph.

Each is a script that is called with INPUT OUTPUT BUNDLE, writes Parquet files with the columns `path` (of the
shard), `key`, `label`, `score` and `predicted_at` into the directory OUTPUT, and prints one JSON line last.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from time import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from mmray.batching import Feeds, pack
from mmray.bundle import FP32, Bundle
from mmray.engine import Engine
from mmray.preprocess.audio import decode_region, log_mel
from mmray.preprocess.image import decode_image
from mmray.preprocess.spec import Limits
from mmray.preprocess.text import TextTokenizer, decode_text
from mmray.schema import TENSOR_OF, TENSORS, Modality
from mmray.sources import EXTENSIONS

# Records of one inference. With 32 Ray Data took 25.4 ms a record instead of 22.1, DataLoader 15.6 instead of
# 10.7, and Daft the same: they take records in their order, and pad each text to the longest of its batch.
BATCH_ROWS = 8
CORES = len(os.sched_getaffinity(0))


class Decoder:
    """Members of one record → its values of TENSORS, with the functions that mmray calls."""

    def __init__(self, bundle: str) -> None:
        opened, limits = Bundle.open(bundle), Limits()
        spec = opened.spec
        self._decoders: dict[Modality, Callable[[bytes], Any]] = {}
        if image := spec.image:
            self._decoders["image"] = lambda data: decode_image(data, image, limits.image_pixels).tobytes()
        if spec.text and opened.tokenizer:
            tokenize = TextTokenizer(opened.tokenizer, spec.text)
            self._decoders["text"] = lambda data: tokenize([decode_text(data, limits.text_chars)])[0]
        if audio := spec.audio:
            self._decoders["audio"] = lambda data: log_mel(
                decode_region(data, audio, limits.audio_s, None).wave, audio
            ).tobytes()

    def __call__(self, members: Mapping[str, Any]) -> dict[str, Any]:
        """Values of ``pixels``, ``input_ids`` and ``log_mel``; None if the record has no such member.

        Args:
            members: bytes by extension; other members are ignored.
        """
        values: dict[str, Any] = dict.fromkeys(TENSOR_OF.values())
        for modality, decode in self._decoders.items():
            there = [members[ext] for ext in EXTENSIONS[modality] if members.get(ext) is not None]
            if there:
                values[TENSOR_OF[modality]] = decode(there[0])
        return values


@lru_cache(maxsize=1)
def opened_decoder(bundle: str) -> Decoder:
    """The decoder of this process: made at first use, and kept."""
    return Decoder(bundle)


class Model:
    """The bundle's fp32 graph in a session of ONNX Runtime.

    Args:
        bundle: its directory.
        threads: threads of one inference.
    """

    def __init__(self, bundle: str, threads: int = 1) -> None:
        opened = Bundle.open(bundle)
        self._labels = np.array(opened.labels)
        self._engine = Engine(opened.graph(FP32), provider="cpu", threads=threads)

    def __call__(self, feeds: Feeds) -> dict[str, Any]:
        """Arrays of one batch → columns ``label``, ``score`` and ``predicted_at`` (Unix time)."""
        scores = self._engine(feeds)["scores"]
        return {
            "label": self._labels[scores.argmax(axis=1)],
            "score": scores.max(axis=1),
            "predicted_at": np.full(len(scores), time()),
        }


class Collator:
    """Decoded records → the arrays of one batch.

    Args:
        bundle: directory of the bundle whose graph takes them.
    """

    def __init__(self, bundle: str) -> None:
        self._spec = Bundle.open(bundle).spec

    def __call__(self, columns: Mapping[str, Sequence[Any] | pa.Array | pa.ChunkedArray]) -> Feeds:
        """Columns ``pixels``, ``input_ids`` and ``log_mel`` → the arrays of one batch."""
        schema = pa.schema([TENSORS.field(name) for name in TENSOR_OF.values()])
        return pack(pa.table({name: columns[name] for name in schema.names}).cast(schema), self._spec)


def shards_of(folder: str) -> list[str]:
    """Absolute paths of the tars in a directory, in order."""
    return sorted(str(path.absolute()) for path in Path(folder).glob("*.tar"))


def finish(output: str) -> None:
    """Print the result: Unix times of the first prediction and of the end, and the number of written rows."""
    ended = time()
    rows = ds.dataset(output, format="parquet").to_table(["predicted_at"])
    print(json.dumps({"first": pc.min(rows["predicted_at"]).as_py(), "end": ended, "rows": rows.num_rows}))
