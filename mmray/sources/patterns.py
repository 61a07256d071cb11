"""Parses an input: a path, a glob, a brace pattern. A path that exists is always taken literally."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from braceexpand import braceexpand

from mmray.errors import InputError, UsageError
from mmray.storage import Location

_MAGIC = re.compile(r"[*?\[\]{}\\]")  # characters of globs and of brace patterns
_SURELY = re.compile(r"\*|\{\d+\.\.\d+\}")  # patterns that do not occur in names of files on a store


@dataclass(frozen=True)
class Pattern:
    """One name, without braces, from an input."""

    text: str
    place: Location
    root: str | None  # if the braces determine it
    literal: int = 0  # so many parts of the path exist literally, wildcards included

    @property
    def is_glob(self) -> bool:
        return any(map(glob.has_magic, self.place.path.split("/")[self.literal :]))

    def matches(self, names: Sequence[str], parts: Sequence[str]) -> bool:
        """Whether the parts of a path match those of this pattern, or of the beginning of it."""
        if len(names) != len(parts):
            return False
        pairs = enumerate(zip(names, parts, strict=True))
        return all(n == p if i < self.literal else fnmatchcase(n, p) for i, (n, p) in pairs)


def patterns_of(text: str) -> list[Pattern]:
    """The names of one input: an existing path takes precedence over a pattern.

    Raises:
        InputError: unbalanced braces.
    """
    whole, literal = _as_written(text)
    if whole and literal:
        return _below_literal(text, whole, literal)
    try:
        names = list(braceexpand(text))
    except ValueError as e:
        raise InputError(f"{text}: unbalanced braces in the pattern") from e
    root = None
    if len(names) > 1:
        # Any name at the first brace is in the common directory of all the patterns.
        fixed = f"{text[: text.index('{')]}_{Location.parse(names[0]).query}"
        root = _directory(Location.parse(fixed).path)
    return [_pattern(name, root, several=len(names) > 1) for name in names]


def shadowed(text: str) -> str:
    """A note on a local input that exists literally but as a pattern would also match others."""
    if "://" in text:
        return ""
    whole, literal = _as_written(text)
    if not whole or not literal:
        return ""
    head = "/".join(whole.path.split("/")[:literal])
    try:
        names = list(braceexpand(whole.path))
    except ValueError:
        return ""
    others = sorted({path for name in names for path in glob.glob(name)} - {head})  # noqa: PTH207  (absolute)
    others = [path for path in others if not path.startswith(f"{head}/")]
    return f"{head}, not {others[0]}" if others else ""


def _pattern(name: str, root: str | None, *, several: bool) -> Pattern:
    place = Location.parse(name)
    # On a store each would be a request; one whole pattern was requested already.
    literal = _literal_parts(place) if several and place.is_local else 0
    return Pattern(name, place, root, literal)


def _as_written(text: str) -> tuple[Location | None, int]:
    """The path of an input taken literally, and how many parts of it exist."""
    if not _MAGIC.search(text):
        return None, 0
    try:
        place = Location.parse(text)
    except UsageError:  # a URL of a file takes no braces
        return None, 0
    return place, _literal_parts(place)


def _literal_parts(place: Location) -> int:
    """How many parts of a path, up to the last that looks like a pattern, exist literally; or 0.

    On a store each is a request, so parts with a star or a range of numbers are not requested there.
    """
    parts = place.path.split("/")
    magic = [i + 1 for i, part in enumerate(parts) if _MAGIC.search(part)]
    if not place.is_local:
        magic = [n for n in magic if not _SURELY.search(parts[n - 1])]
    return next((n for n in reversed(magic) if replace(place, path="/".join(parts[:n])).exists()), 0)


def _below_literal(text: str, whole: Location, literal: int) -> list[Pattern]:
    parts = whole.path.split("/")
    head, tail = "/".join(parts[:literal]), "/".join(parts[literal:])
    try:
        names = list(braceexpand(tail)) if "{" in tail else [tail]
    except ValueError as e:
        raise InputError(f"{text}: unbalanced braces in the pattern") from e
    root = _directory(f"{head}/{tail[: tail.index('{')]}_") if len(names) > 1 else None
    places = [replace(whole, path=f"{head}/{name}" if name else head) for name in names]
    return [Pattern(place.url, place, root, literal) for place in places]


def _directory(path: str) -> str:
    return path.rpartition("/")[0]
