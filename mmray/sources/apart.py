"""Keeps output out of the input: a run or its resume must never read what it wrote."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from urllib.parse import parse_qs

from mmray.errors import OutputError
from mmray.sources.patterns import Pattern, patterns_of
from mmray.storage import Location

_Parts = list[str]


def check_apart(inputs: Sequence[str], output: str, folders: Sequence[str]) -> None:
    """Refuse an output directory inside the input, or an input inside the output.

    Args:
        inputs: as of `list_shards`.
        output: the directory.
        folders: names of its directories for files of records.

    Raises:
        OutputError: names both.
    """
    place = Location.parse(output)
    out = _real(place)
    written = [[*out, folder] for folder in folders]
    for text in inputs:
        for pattern in patterns_of(text):
            if _same_store(pattern.place, place) and _clashes(pattern, out, written):
                raise OutputError(
                    f"{place}: and the input {text} are inside one another: output would be read again; "
                    "choose another --output"
                )


def _clashes(pattern: Pattern, out: _Parts, written: Sequence[_Parts]) -> bool:
    named = _real(pattern.place)
    if pattern.is_glob:  # matches files of one depth only
        folder = named[:-1]
        return any(pattern.matches(each, folder) for each in written)
    return _holds(named, out) or any(_holds(each, named) for each in written)


def _holds(outer: _Parts, inner: _Parts) -> bool:
    return inner[: len(outer)] == outer


def _real(place: Location) -> _Parts:
    """Parts of a path; links are resolved up to the first wildcard."""
    parts = place.path.rstrip("/").split("/")
    if not place.is_local:
        return parts
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return [*os.path.realpath("/".join(parts[:fixed]) or "/").rstrip("/").split("/"), *parts[fixed:]]


def _same_store(one: Location, other: Location) -> bool:
    """Whether two places may be on one filesystem; true in doubt, because a store has several spellings."""
    if one.filesystem.type_name != other.filesystem.type_name:
        return False
    hosts = [parse_qs(place.query.lstrip("?")).get("endpoint_override") for place in (one, other)]
    return hosts[0] == hosts[1] or None in hosts
