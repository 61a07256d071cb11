"""Cost of each stage on one core, compared with the same work by the bare libraries.

A stage's *ratio* is the bare library's time over ours: 1 is as fast as the library allows; it falls when a
stage gets slower. Both sides run the same records in turns, and the fastest run of each block counts, so that
other load changes a ratio little, and another machine not much more.
"""

from __future__ import annotations

import io
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import soxr
import webdataset as wds
from PIL import Image
from scipy.fft import rfft
from tokenizers import Tokenizer

from mmray.batching import batches, pack
from mmray.bundle import FP32, Bundle
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.sink import write_part
from mmray.predictor import Predictor, open_preprocessor
from mmray.schema import Modality
from mmray.sources import ReadOptions, Shard, list_shards, read

# The bare side converts such images directly, and Pillow's warning would appear between our lines.
warnings.filterwarnings("ignore", message="Palette images with Transparency")

STAGES = ("read", "image", "text", "audio", "model", "write")


@dataclass(frozen=True)
class Costs:
    """Milliseconds a record of each stage, ours and of the bare library."""

    rows: int
    ours: Mapping[str, float]
    bare: Mapping[str, float]

    @property
    def ratios(self) -> dict[str, float]:
        return {stage: self.bare[stage] / self.ours[stage] for stage in STAGES}


def stage_costs(inputs: Iterable[str], bundle: Bundle, *, least_rows: int, repeats: int) -> Costs:
    """Time every stage on one core.

    Args:
        inputs: shards.
        bundle: whose model takes image, text and audio.
        least_rows: whole shards are used until they have so many records.
        repeats: runs of each block, of which the fastest counts.
    """
    best: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    rows = number = 0
    preprocess = open_preprocessor(bundle)
    modalities: tuple[Modality, ...] = bundle.spec.modalities
    alone = {m: open_preprocessor(bundle, modalities=(m,)) for m in modalities}
    predict = Predictor(bundle, variant=FP32, provider="cpu", threads=1)
    bare = _Bare(bundle)
    with tempfile.TemporaryDirectory() as place:
        out = RunDirectory.at(place)
        out.begin({})
        for shard in list_shards(list(inputs)):
            if rows >= least_rows:
                break
            records = pa.concat_tables(read(shard, ReadOptions()))
            tensors = preprocess(records)
            outcomes = predict(tensors)
            work: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
                "read": (partial(_walk, shard), partial(bare.read, shard)),
                **{m: (partial(alone[m], records), partial(bare.decode, m, records)) for m in modalities},
                "model": (partial(predict, tensors), partial(bare.infer, tensors)),
                "write": (
                    partial(write_part, out, outcomes, predict.columns),
                    partial(pq.write_table, outcomes, Path(place) / "bare.parquet", compression="zstd"),
                ),
            }
            for stage, sides in work.items():
                for _ in range(repeats):
                    for side, call in zip(("ours", "bare"), sides, strict=True):
                        start = perf_counter()
                        call()
                        seconds = perf_counter() - start
                        earlier = best[side, stage].get(number, seconds)
                        best[side, stage][number] = min(earlier, seconds)
            rows += records.num_rows
            number += 1
    ours, theirs = (
        {stage: 1e3 * sum(best[side, stage].values()) / rows for stage in STAGES} for side in ("ours", "bare")
    )
    return Costs(rows, ours, theirs)


def _walk(shard: Shard) -> None:
    for _ in read(shard, ReadOptions()):
        pass


class _Bare:
    """The work of each stage with only the library that does it, without checks."""

    def __init__(self, bundle: Bundle) -> None:
        self._spec = bundle.spec
        self._tokenizer = Tokenizer.from_file(str(bundle.tokenizer))
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(
            str(bundle.graph(FP32)), options, providers=["CPUExecutionProvider"]
        )

    def read(self, shard: Shard) -> None:
        for _ in wds.WebDataset(shard.url.removeprefix("file://"), shardshuffle=False):
            pass

    def decode(self, modality: Modality, records: pa.Table) -> None:
        there = [data for data in records[modality].to_pylist() if data is not None]
        if modality == "image":
            for data in there:
                self._look(data)
        elif modality == "text":
            self._tokenizer.encode_batch([data.decode() for data in there])
        else:
            for data in there:
                self._hear(data)

    def _look(self, data: bytes) -> None:
        spec = self._spec.image
        assert spec is not None
        with Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (spec.width, spec.height))
            np.asarray(image.convert("RGB").resize((spec.width, spec.height), Image.Resampling.BICUBIC))

    def _hear(self, data: bytes) -> None:
        spec = self._spec.audio
        assert spec is not None
        wave, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
        wave = soxr.resample(wave.mean(axis=1), rate, spec.sample_rate)[: int(spec.max_s * spec.sample_rate)]
        padded = np.pad(wave, (0, max(0, spec.window - len(wave))))
        frames = np.lib.stride_tricks.sliding_window_view(padded, spec.window)[:: spec.hop]
        power = np.abs(rfft(frames * np.hanning(spec.window).astype(np.float32), spec.fft)) ** 2
        np.log(power @ np.ones((power.shape[1], spec.mel_bins), np.float32) + spec.log_offset)

    def infer(self, tensors: pa.Table) -> None:
        for chosen in batches(tensors, 32):
            self._session.run(None, dict(pack(tensors.take(chosen), self._spec)))
