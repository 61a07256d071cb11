"""Many msgpack maps at once, where they are plain: at most fifteen fields, each nil, a string or bytes.

A map with anything else in it, or with anything wrong, is left to `maps`, which says what.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmray.sources.maps import LENGTH_BYTES, NIL
from mmray.sources.views import Ints, Source

_OTHER = -1  # a type that is neither nil, string nor bytes
_NOT_TEXT = -2  # column of a field whose name is not UTF-8
#: Bytes of the length that follows each type byte; a short string has its own in that (msgpack's spec,
#: "Overview of formats").
_WIDTH = np.full(256, _OTHER)
_WIDTH[list(LENGTH_BYTES)] = list(LENGTH_BYTES.values())
_WIDTH[0xA0:0xC0] = _WIDTH[NIL] = 0


class Fields(NamedTuple):
    """Fields of plain maps that a column takes."""

    plain: npt.NDArray[np.bool_]  # which of the maps are
    map: Ints
    column: Ints
    at: Ints
    size: Ints


def plain_fields(source: Source, at: Ints, size: Ints, column_of: Callable[[str], int]) -> Fields:
    """The fields of plain maps: the first of each map, then the second of each, and so on.

    Args:
        source: what the maps lie in.
        at: where they begin.
        size: their bytes.
        column_of: the column that takes a field of this name; -1: none does.
    """
    here, end = at + 1, at + size
    head = source.bytes.take(at, mode="clip")
    plain = (size > 0) & (head >> 4 == 8)
    count = np.where(plain, head & 0x0F, 0)
    found = []
    for nth in range(int(count.max(initial=0))):
        maps = np.flatnonzero(plain & (count > nth))
        code = source.bytes.take(here[maps], mode="clip")
        name, name_bytes = here[maps] + 1, (code & 0x1F).astype(np.int64)
        begin = name + name_bytes
        named = (code >> 5 == 5) & (begin < end[maps])
        plain[maps[~named]] = False
        maps, begin = maps[named], begin[named]
        column = _columns(source, name[named], name_bytes[named], column_of)
        code = source.bytes[begin]
        width = _WIDTH[code]
        after = source.bytes.take(begin[:, None] + np.arange(1, 5), mode="clip")
        number = after.view(">u4").ravel() >> (8 * (4 - np.maximum(width, 0)) % 32)
        length = np.where(width > 0, number, np.where(code == NIL, 0, code & 0x1F)).astype(np.int64)
        begin += 1 + width
        here[maps] = begin + length
        plain[maps] = (width != _OTHER) & (column != _NOT_TEXT)
        taken = np.flatnonzero(plain[maps] & (column >= 0) & (code != NIL))
        found.append((maps[taken], column[taken], begin[taken], length[taken]))
    plain &= here == end  # places only grow: one that went past its map's end stays so
    if not found:
        return Fields(plain, *[np.zeros(0, np.int64)] * 4)
    fields = [np.concatenate(each) for each in zip(*found, strict=True)]
    keep = plain[fields[0]]
    return Fields(plain, *(each[keep] for each in fields))


def _columns(source: Source, at: Ints, size: Ints, column_of: Callable[[str], int]) -> Ints:
    """The column that takes a field of each of these names."""
    names = source.column(at, size).cast(pa.binary()).dictionary_encode()
    columns = []
    for name in names.dictionary.to_pylist():
        try:
            columns.append(column_of(name.decode()))
        except UnicodeDecodeError:
            columns.append(_NOT_TEXT)
    chosen: Ints = np.array(columns, np.int64)[names.indices.to_numpy()]
    return chosen
