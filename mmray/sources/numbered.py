"""Records of an LMDB that are entries `<prefix>-<number>`, as in data sets for text recognition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile

from mmray.errors import ShardError
from mmray.sources.beside import CARRIED_BYTES
from mmray.sources.captions import KEY_BYTES, Captions
from mmray.sources.environment import Snapshot
from mmray.sources.layouts import (
    Contents,
    Fault,
    Found,
    Layout,
    Payload,
    column_named,
    is_pickle,
)
from mmray.sources.names import COLUMNS, text_of
from mmray.sources.options import ReadOptions
from mmray.sources.unlisted import HEAD_BYTES, modality_of
from mmray.unread import Unread

_PREFIXES: Mapping[str, str] = {"img": "image", "label": "text", "caption": "text", "text": "text"}
_COUNTS = (b"num-samples", b"num_samples")
_STEPS = 256  # prefixes, and keys between them, that are examined


class Numbered(Layout):
    """Entries `<prefix>-<number>` with the same number are a record, at the position of the first one.

    The name of a prefix decides its column. A label without its image or sound is an error, because it was
    made for one; so is a number of samples larger than the number of entries.
    """

    def __init__(self, snapshot: Snapshot, options: ReadOptions, captions: Captions, *, whole: bool) -> None:
        super().__init__(snapshot, options, captions, whole=whole)
        found = {p: _column_of_prefix(p, options.column_of) for p in prefixes_of(snapshot)}
        order = [*COLUMNS, None]
        self._prefixes = dict(sorted(found.items(), key=lambda item: order.index(item[1])))

    def group(self, first: int) -> Iterator[Found]:
        self.orphans = []
        last: Found | None = None
        for number, (name, value) in enumerate(self._snapshot.walk(first, values=self._payload), first):
            prefix, _, digits = name.rpartition(b"-")
            if prefix not in self._prefixes or not digits.isdigit():
                if name not in _COUNTS:
                    self.pass_over(name)
            elif self._is_first(prefix, digits):
                if last:
                    yield last
                last = digits, number, number + 1, self._record(prefix, digits, value)
        if last:
            if isinstance(last[3], dict):
                self.take_orphans(last[3])
            yield last
        self._check_count()

    def _is_first(self, prefix: bytes, digits: bytes) -> bool:
        earlier = takewhile(lambda other: other != prefix, self._prefixes)
        return all(self._snapshot.get(b"%b-%b" % (other, digits)) is None for other in earlier)

    def _record(self, prefix: bytes, digits: bytes, value: Payload) -> Contents | Fault:
        main = next(iter(self._prefixes.values()))
        column = self._prefixes[prefix]
        if column not in ("image", "audio") and main in ("image", "audio"):
            lost = text_of(b"%b-%b" % (next(iter(self._prefixes)), digits))
            return Fault(f"{lost} is missing, but {text_of(prefix)}-{text_of(digits)} exists", "lmdb-missing")
        contents: Contents = {}
        if not self._payload:
            return contents
        others: list[str] = []
        media: list[Unread] = []
        for other, column in self._prefixes.items():
            name = b"%b-%b" % (other, digits)
            entry = value if other == prefix else self._snapshot.get(name)
            if entry is None:
                continue
            if len(entry) > self._limit:
                return Fault(
                    f"{text_of(name)} has {len(entry)} bytes, more than {self._limit}", "member-too-large"
                )
            if is_pickle(entry):
                return Fault(f"{text_of(name)} is a Python pickle, which is never loaded", "lmdb-pickle")
            text = text_of(other)
            if column is not None or self.whole:
                place = column or text
                if place in contents:
                    return Fault(f"more than one {place}: {text_of(name)} is the second", "repeated-member")
                contents[place] = entry
            elif len(entry) > CARRIED_BYTES or not self.carry(contents, text, bytes(entry).strip()):
                modality = modality_of(text.lower(), bytes(entry[:HEAD_BYTES]))
                kind = f"entry {text[:40]}-…"
                media += [Unread(kind, text_of(name), modality)] if modality else []
                others += [] if modality else [f"{text[:40]}-…"]
        self.say(contents, "entry", others, media)
        self.take_orphans(contents)
        return contents

    def _check_count(self) -> None:
        """Raise a ShardError if there are fewer records than the environment states."""
        stated = next((v for name in _COUNTS if (v := self._snapshot.get(name)) is not None), None)
        if stated is None or not bytes(stated[:20]).strip().isdigit():
            return
        names = self._snapshot.keys_from(b"")
        parts = (name.rpartition(b"-") for name in names)
        there = sum(
            prefix in self._prefixes and digits.isdigit() and self._is_first(prefix, digits)
            for prefix, _, digits in parts
        )
        if int(bytes(stated[:20])) > there:
            reason = f"num-samples says {int(bytes(stated[:20]))} records, but there are {there}"
            raise ShardError(reason, "shard-truncated")


def prefixes_of(snapshot: Snapshot) -> list[bytes]:
    """The prefixes of numbers in an environment's keys; all keys of a prefix are skipped at once."""
    found: list[bytes] = []
    key = b""
    for _ in range(_STEPS):
        name = next(snapshot.keys_from(key), None)
        if name is None:
            break
        prefix, _, digits = name.rpartition(b"-")
        if prefix and digits.isdigit():
            found.append(prefix)
            key = prefix + b"."  # which comes next after "-"
        else:
            key = name + b"\0" * (len(name) < KEY_BYTES)
            if key == name:  # no key comes between
                break
    return found


def is_numbered(snapshot: Snapshot, names: Sequence[bytes], column_of: Mapping[str, str]) -> bool:
    """Whether there are entries of two kinds with the same number, or one kind and a number of samples."""
    if not any(prefix and number.isdigit() for prefix, _, number in (n.rpartition(b"-") for n in names)):
        return False
    known = [prefix for prefix in prefixes_of(snapshot) if _column_of_prefix(prefix, column_of)]
    if known and any(snapshot.get(name) is not None for name in _COUNTS):
        return True
    first = next(snapshot.keys_from(known[0] + b"-"), b"") if known else b""
    digits = first.rpartition(b"-")[2]
    return any(snapshot.get(b"%b-%b" % (other, digits)) is not None for other in known[1:])


def _column_of_prefix(prefix: bytes, column_of: Mapping[str, str]) -> str | None:
    name = text_of(prefix).lower()
    return column_named(name, column_of) or _PREFIXES.get(name)
