"""What goes into the columns of a row, by the names of features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmray.errors import RecordError
from mmray.schema import MODALITIES
from mmray.sources.beside import CARRIED_BYTES, as_text, listed, plain, several_captions
from mmray.sources.examples import BYTES, FLOATS, INTS, KINDS, Feature, Message, Value
from mmray.sources.options import EXTENSIONS, ReadOptions
from mmray.unread import OF_TYPE, SEVERAL, Unread

#: Feature names that are used if no feature has the name of an extension.
NAMES: Mapping[str, tuple[str, ...]] = {
    "image": ("image/encoded", "image", "image/data"),
    "text": ("text", "caption", "image/caption"),
    "audio": ("audio/encoded", "audio"),
    "meta": ("meta", "json"),
}
KEYS = ("key", "__key__", "image/filename", "id", "image/image_id")  # the first one present
_KEY_BYTES = 1 << 10  # longer keys are truncated, to bound the size of blocks
_SETS = 1024  # names of unread features that are cached


class Examples:
    """What goes into the columns of a row, by the names of features."""

    def __init__(self, options: ReadOptions) -> None:
        self._max_bytes = options.member_bytes
        self._payload = options.payload
        self._captions = options.captions
        self._carried = {name.encode("utf-8", "surrogateescape"): name for name in options.carry}
        taken = options.column_of
        built_in = {column: [name for name in NAMES[column] if name not in taken] for column in EXTENSIONS}
        self._configured = options.columns
        self._keys = options.columns.get("key", KEYS)
        self._names: dict[str, tuple[Sequence[str], ...]] = {
            name: (options.columns[name],)
            if name in options.columns
            else (options.extensions.get(name, ()), built_in[name])
            for name in EXTENSIONS
        }
        #: By the name of a feature as bytes: its name as text, and the column that may take it.
        self._known: dict[bytes, tuple[str, str | None]] = {
            name.encode(): (name, None) for name in self._keys
        }
        for column, ranks in self._names.items():
            self._known |= {name.encode(): (name, column) for names in ranks for name in names}
        self._said: dict[tuple[bytes, ...], list[dict[str, Any]] | None] = {}  # one object for all equal rows

    def fill(self, record: dict[str, Any], data: bytes) -> None:
        """Read key, payload and other values from a message.

        Raises:
            RecordError: something is wrong with it.
        """
        message = Message(data)
        keys: dict[str, str] = {}
        found: dict[str, list[bytes]] = {}  # values by name, of the columns
        small: dict[str, str | None] = {}
        others: list[bytes] = []
        beside: list[Unread] = []
        for feature in message.features():
            if feature.name in self._carried:
                self._carry(message, feature, small, beside)
            known = self._known.get(feature.name.lower())
            if known is None:
                if feature.name not in self._carried:
                    others.append(feature.name)
                continue
            name, column = known
            kind, values = _values_of(message, feature, column)
            if name in self._keys and kind in (BYTES, INTS):
                keys[name] = _text(values[0])
            if column and kind == BYTES:
                found[name] = [value for value in values if isinstance(value, bytes)]
            elif column in MODALITIES and kind and (len(values) > 1 or kind == FLOATS):
                beside.append(Unread(f"feature {name[:40]}{OF_TYPE}{KINDS[kind]}", name, column))
            elif kind and name not in keys and feature.name not in self._carried:
                others.append(feature.name)
        chosen = next((name for name in self._keys if name in keys), None)
        if chosen:
            record["key"] = keys.pop(chosen)
        payload: dict[str, bytes] = {}
        for column in EXTENSIONS:
            content = self._choose(column, found, beside)
            if content is not None:
                payload[column] = content
        if self._payload:
            record.update(payload)
        others += (name.encode() for name in (*found, *keys) if name not in small)  # that were not chosen
        record["fields"] = small or None
        record["unread"] = self._unread(tuple(others), beside)

    def _choose(self, column: str, found: dict[str, list[bytes]], beside: list[Unread]) -> bytes | None:
        """The value of a column; removes its feature from those that were found."""
        by_rank = ([name for name in names if name in found] for names in self._names[column])
        there = next(filter(None, by_rank), [])
        if not there:
            return None
        if column in self._configured:
            there = there[:1]
        if len(there) > 1:
            reason = f"more than one {column}: {', '.join(there)}; name the right one in `extensions`"
            raise RecordError(reason, "repeated-member")
        (name,) = there
        values = found.pop(name)
        content: bytes | None = values[0]
        if column == "text":
            content, further = several_captions(name, values, self._captions)
            beside += [further] if further else []
        elif len(values) > 1:
            beside.append(Unread(f"feature {name[:40]}{SEVERAL}", name))
        if content is not None and len(content) > self._max_bytes:
            reason = f"feature {name!r} has {len(content)} bytes, more than limits.member_bytes"
            raise RecordError(f"{reason}={self._max_bytes}", "member-too-large")
        return content

    def _carry(
        self, message: Message, feature: Feature, small: dict[str, str | None], beside: list[Unread]
    ) -> None:
        """One value unchanged, several as a JSON list, none as null."""
        name = self._carried[feature.name]
        values = [value for span in feature.spans for value in _short(*message.values(span))]
        if sum(len(value) if isinstance(value, bytes) else 8 for value in values) > CARRIED_BYTES:
            beside.append(Unread(f"feature {name[:40]}{OF_TYPE}more than {CARRIED_BYTES} bytes", name))
        else:
            small[name] = as_text(values if len(values) > 1 else next(iter(values), None))

    def _unread(self, others: tuple[bytes, ...], beside: list[Unread]) -> list[dict[str, Any]] | None:
        """The `unread` of a row; shared by rows with the same features."""
        if others not in self._said:
            if len(self._said) >= _SETS:
                self._said.clear()
            names = [name.decode("utf-8", "backslashreplace") for name in others]
            self._said[others] = listed(plain("feature", names))
        said = self._said[others]
        return (said or []) + (listed(beside) or []) if beside else said


def _values_of(message: Message, feature: Feature, column: str | None) -> tuple[int, list[Value]]:
    """Kind and values of a feature; for a feature list of words, one text."""
    if not feature.is_list:
        return message.values(feature.spans[0]) if column == "text" else message.values(feature.spans[0], 2)
    parts = [message.values(span) for span in feature.spans]
    kind = max((kind for kind, _ in parts), default=0)
    values = [value for part, some in parts if part == kind for value in some]
    if kind == BYTES and column == "text":
        return kind, [b" ".join(value for value in values if isinstance(value, bytes))]
    return kind, values


def _short(kind: int, values: list[Value]) -> list[Value]:
    """Values with as many digits as 32-bit floats have."""
    return [float(str(np.float32(value))) for value in values] if kind == FLOATS else values


def _text(key: Value) -> str:
    return key[:_KEY_BYTES].decode(errors="backslashreplace") if isinstance(key, bytes) else str(key)
