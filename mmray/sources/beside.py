"""Values of a table's row besides payload: those that are carried as text, and those that are not read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from mmray.sources.options import Captions
from mmray.unread import FURTHER, Unread

CARRIED_BYTES = 64 << 10  # bytes of a carried value
_NAMED = 8  # names that are counted separately for a row; further ones are counted together


def plain(what: str, names: Sequence[str]) -> list[Unread]:
    """Columns, features or fields that are unused and cannot be a modality.

    Args:
        what: "column", "feature" or "field".
        names: theirs.
    """
    if len(names) > _NAMED:
        return [Unread(f"{len(names)} more {what}s", ", ".join(names)[:300])]
    return [Unread(f"{what} {name[:40]}", name) for name in names]


def listed(things: Iterable[Unread]) -> list[dict[str, Any]] | None:
    """Value of the column `unread`; rows may share one."""
    return [thing._asdict() for thing in things] or None


def several_captions(
    name: str, found: Sequence[bytes], captions: Captions
) -> tuple[bytes | None, Unread | None]:
    """The text of a record that has several, and the texts that are not read."""
    if captions == "join":
        return (b" ".join(found) if found else None), None
    further = Unread(FURTHER, name) if len(found) > 1 else None
    return (found[0] if found else None), further


def as_text(value: object) -> str | None:
    """A value as it is carried: strings and bytes unchanged, times in ISO 8601, others as JSON."""
    if value is None:
        return None
    if isinstance(value, bytes | memoryview):
        return bytes(value).decode("utf-8", "backslashreplace")
    text = value if isinstance(value, str) else _json(value)
    return text.encode("utf-8", "backslashreplace").decode()


def _json(value: object) -> str:
    if isinstance(value, bool | int | float | list | tuple | dict):
        return json.dumps(value, ensure_ascii=False, default=as_text)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
