"""Tables as values: made once, shown on a terminal or on a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class Markup(str):
    """HTML that is put into a page unchanged. All other text is escaped."""

    __slots__ = ()


@dataclass(frozen=True)
class Table:
    """Cells as they are shown. Text is aligned to the left, figures to the right."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    text: frozenset[str]  # names of the columns that hold text

    def trimmed(self) -> Table:
        """Without the columns that are empty in every row."""
        return self._only([i for i in range(len(self.header)) if any(row[i] for row in self.rows)])

    def without(self, *names: str) -> Table:
        """Without columns of these names."""
        return self._only([i for i, name in enumerate(self.header) if name not in names])

    def _only(self, kept: Sequence[int]) -> Table:
        return Table(
            tuple(self.header[i] for i in kept), [tuple(row[i] for i in kept) for row in self.rows], self.text
        )


def share(value: float | None, form: str = ".3f") -> str:
    """A number of at most 1, as in ".976"."""
    return "" if value is None else f"{value:{form}}".replace("0.", ".", 1)


def number(count: int, noun: str) -> str:
    """As in "1 shard", "2 shards"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
