"""A WebDataset shard → Arrow blocks of RECORDS, streaming, in bounded memory.

Names are read as the webdataset package reads them: everything up to the first dot of the file name is the
key, the rest is the extension, and neighbouring members of one key are a record. What that package takes
without a word (members of a record that lie apart, a tar that breaks off) is a row with an error here.
"""

from __future__ import annotations

import io
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from mmray.coverage import WHOLE, Missing
from mmray.schema import RECORDS, error
from mmray.sources.blocks import to_blocks
from mmray.sources.options import EXTENSIONS, ReadOptions
from mmray.sources.shards import Shard
from mmray.sources.tar import Damage, Member, walk

_META = re.compile(r"__[^/]*__($|/)")  # webdataset.tariterators.tar_file_iterator's skip_meta
_RECENT_KEYS = 10_000  # how far back a key is remembered; bounds the memory
_BUFFER_BYTES = 1 << 20  # one request to an object store serves many small members


def read_webdataset(
    shard: Shard, options: ReadOptions, wanted: Sequence[Missing] = (WHOLE,)
) -> Iterator[pa.Table]:
    """Yield the wanted rows of a shard as tables of RECORDS, in order.

    Rows that are not wanted are passed over without reading their payload, and where the first wanted row's
    byte offset is known the walk begins there.

    Raises:
        OSError: the shard cannot be opened or read; anything wrong *inside* it is a row with an error.
    """
    place = shard.open()
    records = _Records(shard.id, options, wanted)
    with (
        place.filesystem.open_input_file(place.path) as raw,
        io.BufferedReader(raw, _BUFFER_BYTES) as file,
    ):
        yield from to_blocks(records.read(file, shard.size), options, lambda: records.ended)


class _Records:
    """Groups the members of one shard into records and numbers them."""

    def __init__(self, shard_id: str, options: ReadOptions, wanted: Sequence[Missing]) -> None:
        self._shard_id = shard_id
        self._max_bytes = options.member_bytes
        self._column_of = options.column_of
        self._payload = options.payload
        self._wanted = wanted
        self._row = wanted[0].first - 1 if wanted[0].start else -1
        self._open: dict[str, Any] | None = None
        self._extensions: set[str] = set()
        self._recent: OrderedDict[str, tuple[int, set[str]]] = OrderedDict()
        self._after_damage: Damage | None = None
        self.ended = False  # whether the end of the shard was seen

    def read(self, file: io.BufferedReader, size: int) -> Iterator[dict[str, Any]]:
        start = self._wanted[0].start
        last = self._wanted[-1].last
        for part in walk(file, size, start=start, max_bytes=self._max_bytes, wanted=self._is_wanted):
            yield from self._add_damage(part) if isinstance(part, Damage) else self._add(part)
            if last is not None and self._row > last:
                return
        yield from self._close()
        if self._row < 0:
            yield self._empty_shard(size)
        self.ended = True

    def _is_wanted(self, name: str) -> bool:
        """Whether a member's payload is worth reading. Told by the walk before `_add` sees the member."""
        key, extension = _split(name)
        if not self._payload or extension not in self._column_of:
            return False
        following = self._open is None or key != self._open["key"]
        return self._row_is_wanted(self._row + following)

    def _row_is_wanted(self, row: int) -> bool:
        return any(m.first <= row and (m.last is None or row <= m.last) for m in self._wanted)

    def _add(self, member: Member) -> Iterator[dict[str, Any]]:
        key, extension = _split(member.name)
        if not extension:  # no extension, or a hidden or meta file: not part of a record
            return
        if self._open is None or key != self._open["key"]:
            yield from self._close()
            self._begin(key, member.offset)
        else:
            self._after_damage = None  # it goes on, so the damage lay within it
        record = self._open
        assert record is not None
        record["length"] = member.end - record["offset"]
        column = self._column_of.get(extension)
        repeated = extension in self._extensions
        self._extensions.add(extension)
        if column is None:
            return
        if repeated or record[column] is not None:
            self._fail("repeated-member", f"more than one {column} member: {member.name!r} comes second")
        elif member.size > self._max_bytes:
            reason = (
                f"{member.name!r} has {member.size} bytes, more than limits.member_bytes={self._max_bytes}"
            )
            self._fail("member-too-large", reason)
        elif record["error"] is None:
            record[column] = member.data

    def _add_damage(self, damage: Damage) -> Iterator[dict[str, Any]]:
        """The record that the damage lies in is lost, and so may members of its neighbours be."""
        key = _split(damage.name)[0] if damage.name else None
        if self._open is None and key is None and self._row >= 0:
            self._after_damage = damage
            return  # the walk began here: the damage belongs to the row before it, which is done
        if self._open is None or (key is not None and key != self._open["key"]):
            yield from self._close()
            self._begin(key or "", damage.offset)
        record = self._open
        assert record is not None
        # A damaged range counts to the record after it, so that a walk which begins there meets it again and
        # knows that the record may lack members.
        end = damage.offset if damage.kind == "shard-damaged" else damage.end
        record["length"] = end - record["offset"]
        self._fail(damage.kind, damage.reason)
        self._after_damage = damage

    def _begin(self, key: str, offset: int) -> None:
        self._row += 1
        self._extensions = set()
        damage, self._after_damage = self._after_damage, None
        self._open = {
            **dict.fromkeys(RECORDS.names),
            "shard": self._shard_id,
            "row": self._row,
            "end": False,
            "key": key,
            "offset": damage.offset if damage else offset,
            "length": 0,
        }
        if damage:
            self._fail("shard-damaged", f"may lack members lost just before it: {damage.reason}")

    def _close(self) -> Iterator[dict[str, Any]]:
        record, self._open = self._open, None
        if record is None:
            return
        key = record["key"]
        earlier_row, earlier = self._recent.get(key, (-1, self._extensions))
        if self._extensions.isdisjoint(earlier):
            self._open = record
            self._fail(
                "interleaved-members",
                f"members of this key lie apart: row {earlier_row} holds {', '.join(sorted(earlier))}; "
                "rewrite the shard so that a record's members are neighbours",
            )
            self._open = None
        self._recent[key] = (record["row"], self._extensions)
        if len(self._recent) > _RECENT_KEYS:
            self._recent.popitem(last=False)
        if self._row_is_wanted(record["row"]):
            yield record

    def _fail(self, kind: str, reason: str) -> None:
        """Make the open record a row with an error, without payload; the first reason stays."""
        record = self._open
        assert record is not None
        record["error"] = record["error"] or error("read", kind, reason)
        for column in EXTENSIONS:
            record[column] = None

    def _empty_shard(self, size: int) -> dict[str, Any]:
        self._begin("", 0)
        assert self._open is not None
        self._open["length"] = size
        self._fail("shard-empty", "the shard holds no records")
        record, self._open = self._open, None
        return record


def _split(name: str) -> tuple[str, str]:
    """Key and lower-case extension of a member; an extension of "" for what is not part of a record.

    As webdataset.tariterators.base_plus_ext, whose expression takes hours over a long name of slashes.
    """
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    hidden = not stem and (not slash or "." in folder.rpartition("/")[2])  # yes: "a/.b" has the key "a/"
    if hidden or _META.match(name):
        return name, ""
    return folder + slash + stem, extension.lower()
