"""RECORDS → TENSORS: decode, tokenize, log-mel. Bad bytes become rows with an error, never exceptions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from mmray.align import Aligner, AlignSpec, OutOfStep, Step
from mmray.errors import BundleError, InputError, RecordError
from mmray.preprocess.audio import decode_region, log_mel
from mmray.preprocess.foreign_text import ForeignText, KindOf, foreign_test
from mmray.preprocess.image import decode_image
from mmray.preprocess.spec import AudioSpec, Limits, PreprocessSpec
from mmray.preprocess.text import TextTokenizer, decode_text
from mmray.schema import TENSOR_OF, TENSORS, Modality, error, table
from mmray.unread import OnForeignText, OnUnread, Unread

OnDamaged = Literal["reject", "mask"]


class Preprocessor:
    """Turns tables of raw records into tables of compact tensors, row by row.

    Args:
        spec: what the model takes.
        tokenizer: path of the bundle's tokenizer.json; needed where the spec has text.
        limits: bounds on the memory of one record.
        modalities: those to use; the others are neither decoded nor counted. None means all of the spec's.
        on_damaged: whether a record with one unusable modality is rejected, or predicted from the rest.
        on_unread: an unread input is damage if the record lacks that modality otherwise. It may also reject
            the record (reject) or end the run (fail) in any case.
        foreign_text: whether a text that the encoder does not read is given to it, or counts as missing.
        align: what is aligned with the image, by the times that records state. None: nothing.

    Raises:
        BundleError: the tokenizer is missing or invalid.
        ConfigError: foreign texts are to be masked, but the package that detects languages is missing.
    """

    def __init__(
        self,
        spec: PreprocessSpec,
        tokenizer: Path | None,
        *,
        limits: Limits | None = None,
        modalities: Collection[Modality] | None = None,
        on_damaged: OnDamaged = "reject",
        on_unread: OnUnread = "warn",
        foreign_text: OnForeignText = "keep",
        align: AlignSpec | None = None,
    ) -> None:
        if spec.text and tokenizer is None:
            raise BundleError("the spec has text, so a tokenizer.json is needed")
        self._limits = limits or Limits()
        self._on_damaged = on_damaged
        self._on_unread = on_unread
        self._tokenize = TextTokenizer(tokenizer, spec.text) if spec.text and tokenizer else None
        self._modalities = [m for m in spec.modalities if modalities is None or m in modalities]
        self._masks_foreign = foreign_text == "mask"
        self._kind_of_foreign: KindOf = lambda _: None
        if (text := spec.text) and "text" in self._modalities:
            self._kind_of_foreign = foreign_test(text.languages, text.scripts, foreign_text)
        self._align = align
        heard_s = spec.audio.max_s if spec.audio else inf
        self._aligner = Aligner(align, self._modalities, heard_s) if align else None
        self._decoders: dict[Modality, Callable[[bytes, Step], Any]] = {}
        #: Seconds spent on each modality; may be cleared after reporting.
        self.seconds: Counter[str] = Counter()
        limits = self._limits
        if image := spec.image:
            self._decoders["image"] = lambda b, _: decode_image(b, image, limits.image_pixels).tobytes()
        if spec.text:
            self._decoders["text"] = lambda b, _: decode_text(b, limits.text_chars)
        if audio := spec.audio:
            self._decoders["audio"] = lambda b, step: _hear(b, audio, limits.audio_s, step)

    def __call__(self, records: pa.Table, later: Collection[Modality] = ()) -> pa.Table:
        """Table of RECORDS or VIEWS → table of TENSORS, same rows in the same order.

        Args:
            records: as read.
            later: modalities whose bytes are kept for `complete`. Not possible with `align`, because
                alignment may reject the whole record.

        Raises:
            InputError: an input is not read, and `on_unread` is "fail".
        """
        left = [m for m in self._modalities if m in later and self._aligner is None]
        rows = records.num_rows
        given = _Given(records["error"].to_pylist(), [[] for _ in range(rows)], [None] * rows)
        self._heed_unread(records, given)
        steps = self._steps(records)
        columns = self._decode([m for m in self._modalities if m not in left], records, given, steps)
        waiting = [any(records[m][i].is_valid for m in left) for i in range(rows)]
        self._refuse_empty(columns, given, waiting)
        kept: dict[str, Any] = {m: records[m].cast(pa.binary()) for m in left}
        made = {
            **kept,
            "unread": given.unread,
            "damaged": given.damaged,
            "alignment_error_ms": [_error_ms(step, columns, i) for i, step in enumerate(steps)],
            "error": given.errors,
        }
        return table({**_passed_through(records), **columns, **made}, TENSORS)

    def complete(self, tensors: pa.Table, modalities: Collection[Modality]) -> pa.Table:
        """Table of TENSORS with its postponed modalities decoded.

        A damaged row gets the same error as without postponing.
        """
        wanted = [m for m in self._modalities if m in modalities and tensors[m].null_count < tensors.num_rows]
        if not wanted:
            return tensors
        given = _Given(*(tensors[name].to_pylist() for name in ("error", "damaged", "unread")))
        columns = self._decode(wanted, tensors, given, [Step()] * tensors.num_rows)
        # Modalities that are decoded already, or still postponed.
        others = [name for m in self._modalities if m not in wanted for name in (m, TENSOR_OF[m])]
        there = [[value.is_valid for value in tensors[name]] for name in others]
        self._refuse_empty(columns, given, [any(row) for row in zip(*there, strict=True)] if there else [])
        nothing = pa.nulls(tensors.num_rows, pa.binary())
        found = {"unread": given.unread, "damaged": given.damaged, "error": given.errors}
        made = {**dict.fromkeys(wanted, nothing), **columns, **found}
        completed = table({**{name: tensors[name] for name in TENSORS.names}, **made}, TENSORS)
        for name in tensors.column_names[len(TENSORS) :]:  # values that a stage of a cascade passes on
            completed = completed.append_column(name, tensors[name])
        return completed

    def _heed_unread(self, records: pa.Table, given: _Given) -> None:
        """Record in `given` the unread inputs of each record, and their effect."""
        if "unread" not in records.column_names or records["unread"].null_count == records.num_rows:
            return
        for i, found in enumerate(records["unread"].to_pylist()):
            things = [Unread(**thing) for thing in found or ()]
            given.unread[i] = [thing.kind for thing in things] or None
            own = [thing for thing in things if thing.is_of_record]
            if own and self._on_unread == "fail":
                key, shard = records["key"][i].as_py(), records["shard"][i].as_py()
                raise InputError(f"{shard}: record {key!r}: {own[0].reason}; or set on_unread=warn")
            if own and self._on_unread == "reject" and given.errors[i] is None:
                given.errors[i] = error("read", "unread", own[0].reason)
            for modality in self._modalities:
                lost = next((thing for thing in own if thing.modality == modality), None)
                if lost and given.errors[i] is None and not records[modality][i].is_valid:
                    self._blame(given, i, modality, RecordError(lost.reason, f"{modality}-unread"))

    def _decode(
        self, modalities: Collection[Modality], stored: pa.Table, given: _Given, steps: list[Step]
    ) -> dict[str, list[Any]]:
        """Columns of TENSORS of some modalities; faults go into `given`."""
        columns: dict[str, list[Any]] = {}
        for modality in modalities:
            start = perf_counter()
            column = columns[TENSOR_OF[modality]] = [None] * stored.num_rows
            for i, data in enumerate(stored[modality]):
                if given.errors[i] is not None:
                    continue
                try:
                    member = _member(modality, data, steps[i])
                    if member is not None:
                        column[i] = self._decoders[modality](member, steps[i])
                except RecordError as e:
                    self._blame(given, i, modality, e)
            if modality == "text":
                self._heed_foreign(column, given)
                self._fill_token_ids(column, given)
            self.seconds[modality] += perf_counter() - start  # type: ignore[assignment]  # floats, too
        return columns

    def _refuse_empty(self, columns: dict[str, list[Any]], given: _Given, others: list[bool]) -> None:
        """Set an error if no modality is left, here or in `others`; drop the modalities of rows with one."""
        for i in range(len(given.errors)):
            there = any(column[i] is not None for column in columns.values()) or (bool(others) and others[i])
            if given.errors[i] is None and not there:
                given.errors[i] = self._nothing_left(given.faults.get(i, {}))
            if given.errors[i] is not None:
                for column in columns.values():
                    column[i] = None

    def _steps(self, records: pa.Table) -> list[Step]:
        """The alignment of each record; without a spec, none."""
        if self._aligner is None:
            return [Step()] * records.num_rows
        start = perf_counter()
        there = {m: pc.is_valid(records[m]).to_pylist() for m in self._modalities}
        steps = [
            self._aligner(meta.as_py(), [m for m in there if there[m][i]])
            for i, meta in enumerate(records["meta"])
        ]
        self.seconds["align"] += perf_counter() - start  # type: ignore[assignment]  # floats, too
        return steps

    def _cost(self, modality: Modality, fault: RecordError) -> dict[str, str] | None:
        """The record's error if a fault of one modality rejects it; None if only the modality is lost."""
        if isinstance(fault, ForeignText):
            return None
        if isinstance(fault, OutOfStep):
            required = getattr(self._align, modality) == "require"
            return error("align", fault.kind, fault.reason) if required else None
        return error("preprocess", fault.kind, fault.reason) if self._on_damaged == "reject" else None

    def _blame(self, given: _Given, row: int, modality: Modality, fault: RecordError) -> None:
        given.blame(row, modality, fault)
        given.errors[row] = self._cost(modality, fault)

    def _heed_foreign(self, texts: list[str | None], given: _Given) -> None:
        """Count the texts that the encoder does not read, and remove them if they are masked."""
        for i, text in enumerate(texts):
            if text is None or (kind := self._kind_of_foreign(text)) is None:
                continue
            given.unread[i] = [*(given.unread[i] or ()), kind]
            if self._masks_foreign:
                texts[i] = None
                self._blame(given, i, "text", ForeignText(kind))

    def _fill_token_ids(self, column: list[Any], given: _Given) -> None:
        """Replace the decoded strings by token ids, in one call: the tokenizer is faster in batches."""
        rows = [i for i, text in enumerate(column) if text is not None]
        if not rows or self._tokenize is None:
            return
        for i, found in zip(rows, self._tokenize.each([column[i] for i in rows]), strict=True):
            column[i] = found
            if isinstance(found, RecordError):
                column[i] = None
                self._blame(given, i, "text", found)

    def _nothing_left(self, faults: dict[Modality, RecordError]) -> dict[str, str]:
        reason = f"no usable modality: {', '.join(faults)} damaged"
        foreign = [fault for fault in faults.values() if isinstance(fault, ForeignText)]
        if foreign and len(faults) == 1:
            return error("preprocess", foreign[0].kind, foreign[0].reason)
        if foreign:
            reason += " or masked"
        if any(isinstance(fault, OutOfStep) for fault in faults.values()):
            return error("align", "all-out-of-step", f"{reason} or not aligned")
        if faults:
            return error("preprocess", "all-damaged", reason)
        return error("preprocess", "no-modality", f"has none of {', '.join(self._modalities)}")


@dataclass
class _Given:
    """Faults of each row so far."""

    errors: list[dict[str, str] | None]
    damaged: list[list[str]]
    unread: list[list[str] | None]  # kinds
    faults: dict[int, dict[Modality, RecordError]] = field(default_factory=dict)  # of this call, by row

    def blame(self, row: int, modality: Modality, fault: RecordError) -> None:
        self.damaged[row].append(modality)
        self.faults.setdefault(row, {})[modality] = fault


def _passed_through(records: pa.Table) -> dict[str, pa.ChunkedArray]:
    names = ("shard", "row", "end", "key", "offset", "length", "fields")
    passed = {name: records[name] for name in names if name in records.column_names}
    return {**passed, "meta": records["meta"].cast(pa.binary())}  # it may be views of a file


def _member(modality: Modality, stored: pa.Scalar, step: Step) -> bytes | None:
    """Bytes of an aligned record's modality; None if it has none.

    Raises:
        OutOfStep: it has one that cannot be aligned.
    """
    if modality in step.out:
        raise step.out[modality]
    if modality == "text" and step.caption is not None:
        return step.caption.encode()
    data: bytes | None = stored.as_py()
    return data


def _hear(data: bytes, spec: AudioSpec, max_s: float, step: Step) -> bytes:
    excerpt = decode_region(data, spec, max_s, step.region)
    if step.region:
        step.error_ms["audio"] += 1e3 * excerpt.missing_s
    return log_mel(excerpt.wave, spec).tobytes()


def _error_ms(step: Step, columns: dict[str, list[Any]], row: int) -> float | None:
    """The largest possible offset of the modalities that were aligned and are used."""
    used = (ms for modality, ms in step.error_ms.items() if columns[TENSOR_OF[modality]][row] is not None)
    return max(used, default=None)
