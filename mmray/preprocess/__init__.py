"""RECORDS → TENSORS: decode, tokenize, log-mel. Bad bytes become rows with an error, never exceptions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import pyarrow as pa

from mmray.errors import BundleError, RecordError
from mmray.preprocess.audio import decode_audio, log_mel
from mmray.preprocess.image import decode_image
from mmray.preprocess.spec import Limits, PreprocessSpec
from mmray.preprocess.text import TextTokenizer, decode_text
from mmray.schema import TENSORS, Modality, error, table

OnDamaged = Literal["reject", "mask"]

#: Column of TENSORS that holds each modality.
TENSOR_OF: dict[Modality, str] = {"image": "pixels", "text": "input_ids", "audio": "log_mel"}


class Preprocessor:
    """Turns tables of raw records into tables of compact tensors, row by row.

    Args:
        spec: what the model takes.
        tokenizer: path of the bundle's tokenizer.json; needed where the spec has text.
        limits: bounds on what one record may make us allocate.
        modalities: those to use; the others are neither decoded nor counted. None means all of the spec's.
        on_damaged: whether a record with one unusable modality is rejected, or predicted from the rest.
    """

    def __init__(
        self,
        spec: PreprocessSpec,
        tokenizer: Path | None,
        *,
        limits: Limits | None = None,
        modalities: Collection[Modality] | None = None,
        on_damaged: OnDamaged = "reject",
    ) -> None:
        if spec.text and tokenizer is None:
            raise BundleError("the spec has text, so a tokenizer.json is needed")
        self._limits = limits or Limits()
        self._on_damaged = on_damaged
        self._tokenize = TextTokenizer(tokenizer, spec.text) if spec.text and tokenizer else None
        self._modalities = [m for m in spec.modalities if modalities is None or m in modalities]
        self._decoders: dict[Modality, Callable[[bytes], Any]] = {}
        #: Seconds spent on each modality; whoever reports them may clear it.
        self.seconds: Counter[str] = Counter()
        limits = self._limits
        if image := spec.image:
            self._decoders["image"] = lambda b: decode_image(b, image, limits.image_pixels).tobytes()
        if spec.text:
            self._decoders["text"] = lambda b: decode_text(b, limits.text_chars)
        if audio := spec.audio:
            self._decoders["audio"] = lambda b: log_mel(
                decode_audio(b, audio, limits.audio_s), audio
            ).tobytes()

    def __call__(self, records: pa.Table) -> pa.Table:
        """Table of RECORDS → table of TENSORS, same rows in the same order."""
        errors: list[dict[str, str] | None] = records["error"].to_pylist()
        damaged: list[list[str]] = [[] for _ in errors]
        present = [0] * len(errors)
        columns: dict[str, list[Any]] = {}
        for modality in self._modalities:
            start = perf_counter()
            column = columns[TENSOR_OF[modality]] = [None] * len(errors)
            for i, data in enumerate(records[modality]):
                if errors[i] is not None or not data.is_valid:
                    continue
                try:
                    column[i] = self._decoders[modality](data.as_py())
                    present[i] += 1
                except RecordError as e:
                    damaged[i].append(modality)
                    if self._on_damaged == "reject":
                        errors[i] = error("preprocess", e.kind, e.reason)
            if modality == "text":
                self._fill_token_ids(column)
            self.seconds[modality] += perf_counter() - start  # type: ignore[assignment]  # floats, too
        for i, count in enumerate(present):
            if errors[i] is None and not count:
                errors[i] = self._nothing_left(damaged[i])
        for column in columns.values():
            for i, failure in enumerate(errors):
                if failure is not None:
                    column[i] = None
        return table({**_passed_through(records), **columns, "damaged": damaged, "error": errors}, TENSORS)

    def _fill_token_ids(self, column: list[Any]) -> None:
        """Replace the decoded strings by token ids, in one call: the tokenizer is faster in batches."""
        rows = [i for i, text in enumerate(column) if text is not None]
        if not rows or self._tokenize is None:
            return
        for i, ids in zip(rows, self._tokenize([column[i] for i in rows]), strict=True):
            column[i] = ids

    def _nothing_left(self, damaged: list[str]) -> dict[str, str]:
        if damaged:
            return error("preprocess", "all-damaged", f"nothing usable is left: {', '.join(damaged)} damaged")
        return error("preprocess", "no-modality", f"none of {', '.join(self._modalities)} is there")


def _passed_through(records: pa.Table) -> dict[str, pa.ChunkedArray]:
    return {name: records[name] for name in ("shard", "row", "end", "key", "offset", "length", "meta")}
