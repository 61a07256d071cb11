"""A record of a tar whose members are being collected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mmray.schema import Stage, error
from mmray.sources.options import EXTENSIONS
from mmray.unread import Unread

CARRIED_BYTES = 64 << 10  # of a small member that is carried over as text


@dataclass
class OpenRecord:
    """A record whose members are being collected."""

    fields: dict[str, Any]  # a row of RECORDS
    extensions: set[str] = field(default_factory=set)  # of all its members
    columns: set[str] = field(default_factory=set)  # columns that have a member
    unread: list[Unread] = field(default_factory=list)
    size: int = 0  # bytes of payload that were read

    @property
    def row(self) -> int:
        return int(self.fields["row"])

    def add_field(self, name: str, data: bytes) -> None:
        """Keep a small member as text."""
        text = data.decode("utf-8", "backslashreplace").strip()
        self.fields["fields"] = (self.fields["fields"] or {}) | {name: text}

    def fail(self, kind: str, reason: str, stage: Stage = "read") -> None:
        """Make it a row with an error, without payload; the first reason is kept, or damage of the shard."""
        earlier = self.fields["error"]
        if not earlier or (stage == "shard" and earlier["stage"] != "shard"):
            self.fields["error"] = error(stage, kind, reason)
        for column in EXTENSIONS:
            self.fields[column] = None


def said(unread: Sequence[Unread]) -> list[dict[str, Any]] | None:
    """Value of the column `unread`."""
    return [one._asdict() for one in unread] or None
