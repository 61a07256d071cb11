"""Rows of a CSV or of JSON Lines, one by one, each with the bytes where it begins and ends.

So reading can start at any row. A row that cannot be parsed is one line: the next line is a row again, even
after a quote that is never closed.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from mmray.errors import RecordError, ShardError, about_record

LINE_BYTES = 1 << 20  # bytes of a row: a byte of JSON may need thirty as objects
FIELDS = 1000  # of a CSV
_HEAD_BYTES = 64 << 10
_DELIMITERS = ",\t;|"
_MARKS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}
_STEP_BYTES = 1 << 20


class Row(NamedTuple):
    """One row, and its position."""

    start: int  # byte
    stop: int  # just past its line end
    values: dict[str, Any]  # empty if there is a fault
    fault: RecordError | None = None


class Rows:
    """The rows of a file.

    Args:
        file: binary, seekable, buffered.
        name: of the file; ".tsv" has tabs.

    Raises:
        ShardError: the file is of another encoding, or has no line of column names.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._at = 0  # the next byte to read
        self._counted = (0, 1)  # a byte, and the number of its line
        file.seek(0)
        head = file.read(_HEAD_BYTES)
        _check_encoding(head)
        self._begin = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
        self.names: list[str] = []  # of a CSV's columns
        self.delimiter = ""
        if name.endswith((".csv", ".tsv")):
            self._read_names(name)

    def walk(self, start: int = 0) -> Iterator[Row]:
        """The rows from a byte on, at which a row begins; 0: from the first row."""
        self._go(start or self._begin)
        parse = self._csv if self.delimiter else self._json
        while (row := parse()) is not None:
            yield row

    def line_at(self, byte: int) -> int:
        """The number of the line that begins at a byte; reads the bytes before it."""
        at, line = self._counted if self._counted[0] <= byte else (0, 1)
        self._file.seek(at)
        while at < byte and (data := self._file.read(min(_STEP_BYTES, byte - at))):
            at += len(data)
            line += data.count(b"\n")
        self._counted = at, line
        self._file.seek(self._at)
        return line

    def _go(self, byte: int) -> None:
        self._file.seek(byte)
        self._at = byte

    def _read_names(self, name: str) -> None:
        self._go(self._begin)
        first = self._file.readline(LINE_BYTES)
        counts = {d: first.count(d.encode()) for d in _DELIMITERS}
        self.delimiter = "\t" if name.endswith(".tsv") else max(counts, key=counts.__getitem__)
        self._go(self._begin)
        try:
            self.names = [name.strip() for name in self._fields()[0]]
        except (csv.Error, RecordError) as e:
            raise ShardError(f"its first row does not have column names: {e}", "shard-unreadable") from e
        if not any(self.names) or len(self.names) > FIELDS or len({*self.names}) < len(self.names):
            what = "none" if not any(self.names) else f"more than {FIELDS}, or one twice"
            raise ShardError(f"its first row cannot be used as column names: {what}", "shard-unreadable")
        self._begin = self._at

    def _csv(self) -> Row | None:
        while True:
            start = self._at
            first = self._first_line_end()
            if first == start:
                return None
            try:
                values, blank = self._fields()
            except (csv.Error, RecordError) as e:
                self._go(first)
                return Row(start, first, {}, self._malformed(start, str(e)))
            if blank:
                continue
            if len(values) != len(self.names):
                if self._at > first:  # a quote may have swallowed other rows
                    self._go(first)
                reason = f"{len(values)} fields, {len(self.names)} columns"
                return Row(start, self._at, {}, self._malformed(start, reason))
            return Row(start, self._at, dict(zip(self.names, values, strict=True)))

    def _fields(self) -> tuple[list[str], bool]:
        """The fields of the row that begins here, and whether it is a blank line."""
        start = self._at

        def lines() -> Iterator[str]:
            while line := self._file.readline(LINE_BYTES + 1):
                self._at += len(line)
                if self._at - start > LINE_BYTES:
                    raise RecordError(f"more than {LINE_BYTES} bytes", "row-malformed")
                yield _decoded(line)

        values: list[str] = next(csv.reader(lines(), delimiter=self.delimiter, strict=True), [])
        return values, not any(value.strip() for value in values) and len(values) < 2

    def _json(self) -> Row | None:
        while True:
            start = self._at
            stop = self._first_line_end()
            if stop == start:
                return None
            if stop - start > LINE_BYTES:
                self._go(stop)
                return Row(start, stop, {}, self._malformed(start, f"more than {LINE_BYTES} bytes"))
            line = self._file.read(stop - start)
            self._at = stop
            if not line.strip():
                continue
            try:
                text = _decoded(line)
                with about_record("not JSON", "row-malformed"):
                    values = json.loads(text)
                    if "\\u" in text:  # half a character, which a text column cannot store
                        json.dumps(values, ensure_ascii=False).encode()
            except RecordError as e:
                return Row(start, stop, {}, self._malformed(start, e.reason))
            if not isinstance(values, dict):
                return Row(start, stop, {}, self._malformed(start, "not a JSON object"))
            return Row(start, stop, values)

    def _first_line_end(self) -> int:
        """Where the line that begins here ends; keeps the file position. Memory is bounded."""
        at = self._at
        while part := self._file.readline(LINE_BYTES):
            at += len(part)
            if part.endswith(b"\n"):
                break
        self._file.seek(self._at)
        return at

    def _malformed(self, start: int, reason: str) -> RecordError:
        return RecordError(f"line {self.line_at(start)}: {reason}", "row-malformed")


def _decoded(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as e:
        raise RecordError(f"not UTF-8 at its byte {e.start}; save the file as UTF-8", "row-malformed") from e


def _check_encoding(head: bytes) -> None:
    name = next((name for mark, name in _MARKS.items() if head.startswith(mark)), None)
    if not name and head[:512].count(0) > len(head[:512]) // 4:
        name = "UTF-16 or UTF-32"
    if name:
        raise ShardError(f"text in {name}, which is not supported; save it as UTF-8", "shard-unreadable")
