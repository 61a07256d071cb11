"""Unread input: named by kind, counted, and never treated as absent.

Readers report it with its record (column `unread` of RECORDS). If it could be a modality that the record
lacks, that modality is damaged; everything else is counted and reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

OnUnread = Literal["warn", "reject", "fail"]
OnForeignText = Literal["keep", "mask"]

#: Kinds with a special remedy. Kinds of members are their extensions, as in ".cls members".
DOTTED = "members with dots in their names"
DANGLING = "links to what is not in the tar"
PACKED_LINK = "links in a compressed tar"
SPECIAL = "devices or pipes"
NAMELESS = "members without an extension"
SYSTEM = "files of an operating system"
FURTHER = "further captions"
OTHERS = "other kinds"
#: Texts that the model's encoder does not read.
FOREIGN_SCRIPT, FOREIGN_LANGUAGE = "text in another script", "text in another language"
_MASKED = ", masked"
#: In kinds of columns and features: what is wrong with their values.
OF_TYPE = " of type "
SEVERAL = " of several values"

_REMEDIES = {
    DOTTED: "set `key_split: last` if keys go on to the last dot; else name what follows in `extensions`",
    DANGLING: "write the tar with --dereference",
    PACKED_LINK: "unpack the tar, or write it with --hard-dereference --dereference",
    SPECIAL: "leave them out of the tar",
    NAMELESS: "give them one, after a dot",
    SYSTEM: "",  # AppleDouble, .DS_Store: without useful content
    FURTHER: "set `captions: join` to read them all",
    OTHERS: "",
    **dict.fromkeys((FOREIGN_SCRIPT, FOREIGN_LANGUAGE), "set `foreign_text: mask` to predict without it"),
}
_REMEDIES_OF_PARTS = {
    OF_TYPE: "write it as encoded bytes, text as strings",
    SEVERAL: "keep one of them in each record",
}
_USUAL = "name them in `extensions` to read them, or in `carry` to keep them beside the predictions"
_COLUMN = re.compile(r"(\d+ more )?(column|feature)")
_OF_COLUMNS = "name them in `columns` to read them, or in `carry` to keep them beside the predictions"
_FILE = " of no record"  # suffix of the kinds of files
_OF_FILES = "pack them into shards, or name them as inputs"
_ORPHANS = (NAMELESS, SYSTEM, SPECIAL)  # of no record: they are next to one
_KINDS = 40  # that are counted separately


class Unread(NamedTuple):
    """One unread thing."""

    kind: str  # to count by
    name: str  # as in the shard
    modality: str | None = None  # that it could be, by its name and first bytes

    @property
    def is_of_record(self) -> bool:
        return self.kind not in _ORPHANS and not self.kind.endswith(_FILE)

    @property
    def reason(self) -> str:
        remedy = remedy_of(self.kind)
        return f"{self.name[:100]!r} is there, but not read: {self.kind}{remedy and f'; {remedy}'}"


def remedy_of(kind: str) -> str:
    """The remedy for a kind; "" if none is needed."""
    if kind.endswith(_FILE):
        return _OF_FILES
    if kind.endswith(_MASKED):
        return "set `foreign_text: keep` to give it to the model anyway"
    for part, remedy in _REMEDIES_OF_PARTS.items():
        if part in kind:
            return remedy
    return _REMEDIES.get(kind, _OF_COLUMNS if _COLUMN.match(kind) else _USUAL)


def masked(kind: str) -> str:
    """Kind of an unread text if such texts are masked."""
    return kind + _MASKED


def is_foreign_text(kind: str) -> bool:
    """Whether a kind is of texts that the encoder does not read; `on_unread` does not apply to them."""
    return kind.removesuffix(_MASKED) in (FOREIGN_SCRIPT, FOREIGN_LANGUAGE)


def kind_of_file(name: str) -> str:
    """Kind of a file among shards or records that belongs to none."""
    _, dot, suffix = name.rpartition("/")[2].lstrip(".").rpartition(".")
    return f".{suffix.lower()[:20]} files{_FILE}" if dot else f"files without a suffix{_FILE}"


class Count(NamedTuple):
    """Number of things of a kind, and the place of the first one."""

    number: int
    example: str


@dataclass
class Tally:
    """Counts by kind; when there are too many kinds, the later ones are counted together."""

    counts: dict[str, Count] = field(default_factory=dict)

    def add(self, kind: str, example: str, number: int = 1) -> None:
        if kind not in self.counts and len(self.counts) >= _KINDS:
            kind = OTHERS
        before = self.counts.get(kind, Count(0, example))
        self.counts[kind] = Count(before.number + number, before.example)

    def add_all(self, counts: Mapping[str, Iterable[Any]]) -> None:
        """Add the counts of another tally, or of a part's footer."""
        for kind, (number, example) in counts.items():
            self.add(kind, str(example), int(number))

    def most_common(self) -> list[tuple[str, Count]]:
        return sorted(self.counts.items(), key=lambda item: (-item[1].number, item[0]))

    def to_json(self) -> dict[str, dict[str, Any]]:
        """For summary.json and `--json`: number, example and remedy by kind."""
        return {
            kind: {"number": count.number, "example": count.example, "remedy": remedy_of(kind)}
            for kind, count in self.most_common()
        }
