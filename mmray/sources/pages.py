"""Checks page headers of a Parquet file before Arrow allocates memory for the pages.

A page of 33 KB may decompress to a gigabyte. Headers are parsed here while the bytes are read for Arrow, and
pages beyond the bounds are refused. Footers are parsed here too, because Arrow aborts the process when it
reads column sizes from a damaged one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from mmray.errors import RecordError, ShardError
from mmray.sources.thrift import Compact, Shape

_HEADER_BYTES = 16 << 20  # Arrow's own bound
_INFLATION = 4  # compression ratio of normal data, which is not counted
_VALUE_BYTES = 16  # bytes of Arrow's overhead for each value of a dictionary

# Fields by their numbers in apache/parquet-format's parquet.thrift.
_GROUPS, _COLUMNS, _META = 4, 1, 3
_COMPRESSED, _DATA_AT, _DICTIONARY_AT = 7, 9, 11
_FOOTER: Shape = {_GROUPS: [{_COLUMNS: [{_META: {_COMPRESSED: int, _DATA_AT: int, _DICTIONARY_AT: int}}]}]}
_PAGE_BYTES, _PAGE_COMPRESSED, _DATA, _DICTIONARY, _DATA_2, _VALUES = 2, 3, 5, 7, 8, 1
_PAGE: Shape = {
    _PAGE_BYTES: int,
    _PAGE_COMPRESSED: int,
    **{kind: {_VALUES: int} for kind in (_DATA, _DICTIONARY, _DATA_2)},
}
#: Values of a list, as stated in pages: runs of equal values take no space in the file.
_LIST_VALUES, _VALUES_PER_BYTE = 4 << 20, 16


class Chunk(NamedTuple):
    """Position of the pages of one column of a row group."""

    start: int
    size: int


def chunks(footer: bytes) -> list[list[Chunk]]:
    """The columns of each row group, given the Thrift of a footer.

    Raises:
        ShardError: it cannot be read.
    """
    try:
        groups = Compact(footer).struct(_FOOTER)[_GROUPS]
        return [[_chunk(column[_META]) for column in group[_COLUMNS]] for group in groups]
    except (EOFError, ValueError, KeyError) as e:
        raise ShardError.of(e, "its footer does not have the positions of columns") from e


def _chunk(meta: Mapping[int, int]) -> Chunk:
    start, dictionary = meta[_DATA_AT], meta.get(_DICTIONARY_AT, 0)
    return Chunk(dictionary if 0 < dictionary < start else start, meta[_COMPRESSED])


class Gate:
    """Checks the bytes of one row group, in order, against the bounds of pages.

    Args:
        columns: positions of its columns.
        inflated_bytes: that the largest pages of all columns together may have beyond four times their stored
            size.
        lists: indices of the columns with lists.
        list_values: approximate maximum of values in one row of such a column.
    """

    def __init__(
        self,
        columns: list[Chunk],
        inflated_bytes: int,
        lists: Collection[int] = (),
        list_values: int = 0,
    ) -> None:
        self._columns = [_Column(chunk) for chunk in columns]
        self._most = inflated_bytes
        self._lists = [self._columns[place] for place in lists]
        self._list_values = list_values + _LIST_VALUES
        self.largest = 0  # bytes of the largest page so far, overhead of its dictionary included

    def begin_row(self) -> None:
        """From now on, pages of the next row and some later rows are read."""
        for column in self._lists:
            column.values = column.stored = 0

    def see(self, position: int, data: bytes) -> None:
        """Check bytes that were read.

        Raises:
            ShardError: they are not pages, or are not read in order.
            RecordError: a page would become too large.
        """
        for column in self._columns:
            for page in column.pages(position, data):
                size, stored = page.get(_PAGE_BYTES, 0), page.get(_PAGE_COMPRESSED, 0)
                is_dictionary = _DICTIONARY in page
                size += _VALUE_BYTES * max(0, page.get(_DICTIONARY, {}).get(_VALUES, 0))
                self.largest = max(self.largest, size)
                inflated = column.inflated
                inflated[is_dictionary] = max(inflated[is_dictionary], size - _INFLATION * stored)
                if sum(sum(c.inflated) for c in self._columns) > self._most:
                    reason = (
                        f"a page of {stored} bytes would become {size}, more than {self._most} with others"
                    )
                    raise RecordError(f"{reason}; write smaller pages", "page-too-large")
                if column in self._lists:
                    self._count(column, page, stored)

    def _count(self, column: _Column, page: Mapping[int, Any], stored: int) -> None:
        column.stored += stored
        column.values += sum(max(0, page.get(kind, {}).get(_VALUES, 0)) for kind in (_DATA, _DATA_2))
        most = min(self._list_values, max(_LIST_VALUES, _VALUES_PER_BYTE * column.stored))
        if column.values > most:
            reason = f"a list may have {column.values} values in {column.stored} bytes, more than {most}"
            raise RecordError(f"{reason}; write smaller pages", "page-too-large")


class _Column:
    """Follows the page headers of one column while its bytes are read."""

    def __init__(self, chunk: Chunk) -> None:
        self._next, self._stop = chunk.start, chunk.start + chunk.size  # the next header; the end
        self._begun = b""  # of a header
        self.values = self.stored = 0  # values of the pages read since a row began
        self.inflated = [0, 0]  # bytes of the largest data page, and of the dictionary

    def pages(self, position: int, data: bytes) -> Iterator[dict[int, Any]]:
        """The headers of the pages that begin in bytes read at a position."""
        end = position + len(data)
        while self._next < self._stop and (wanted := self._next + len(self._begun)) < end:
            if position > wanted:
                if position < self._stop:
                    raise ShardError(f"byte {position} is read, but no page begins at byte {self._next}")
                return
            begin = wanted - position
            if self._begun:  # otherwise without a copy
                data, position, begin = self._begun + data[begin:], self._next, 0
            header = Compact(data, begin)
            try:
                page = header.struct(_PAGE)
            except EOFError:
                self._begun = data[begin:]
                if len(self._begun) > _HEADER_BYTES:
                    raise ShardError(f"the header of a page at byte {self._next} has no end") from None
                return
            except ValueError as e:
                raise ShardError.of(e, f"no header of a page at byte {self._next}") from e
            stored = page.get(_PAGE_COMPRESSED, 0)
            if min(stored, page.get(_PAGE_BYTES, 0)) < 0 or stored > self._stop - self._next:
                raise ShardError(f"the page at byte {self._next} states a size of {stored} bytes")
            self._next += header.at - begin + stored
            self._begun = b""
            yield page
