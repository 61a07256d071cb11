"""A WebDataset shard → Arrow blocks of RECORDS, streaming, in bounded memory.

Names are parsed like in the webdataset package: everything up to the first dot of the file name is the key,
the rest is the extension, and neighbouring members of one key are a record. What that package accepts
silently (members of a record that are not neighbours, a truncated tar) is a row with an error here. A link is
replaced by its target, and members that no column takes are reported in `unread`.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from mmray.coverage import WHOLE, Missing
from mmray.sources.blocks import empty_row, new_row, to_blocks
from mmray.sources.links import Links
from mmray.sources.names import is_meta, of_system, split
from mmray.sources.open_record import CARRIED_BYTES, OpenRecord, said
from mmray.sources.options import ReadOptions
from mmray.sources.shards import Shard
from mmray.sources.stream import DecompressedFile
from mmray.sources.tar import ALL_BYTES, ByteFile, Damage, Member, Other, walk
from mmray.sources.unlisted import HEAD_BYTES, modality_of, unlisted
from mmray.unread import DANGLING, NAMELESS, PACKED_LINK, SPECIAL, SYSTEM, Unread

_RECENT_KEYS, _RECENT_CHARS = 10_000, 4 << 20  # how many earlier keys are stored; bounds the memory
_MEMBERS = 1024  # of one record, of any extension
_MOST_ORPHANS = 10_000  # consecutive members of no record that are counted individually
_REGROUP_BYTES = 256 << 20  # bytes of records that are open at once while members are regrouped
_BUFFER_BYTES = 1 << 20  # one request to an object store serves many small members


def read_webdataset(
    shard: Shard, options: ReadOptions, wanted: Sequence[Missing] = (WHOLE,)
) -> Iterator[pa.Table]:
    """Yield the wanted rows of a tar, compressed or not, as tables of RECORDS, in order.

    Reading seeks to the byte where each gap starts, and skips the payload of other records. With regrouping,
    a tar is read from its beginning, because members of earlier records may follow the start of a later one.

    Raises:
        OSError: the shard cannot be opened or read; anything wrong *inside* it is a row with an error.
    """
    with opened_tar(shard) as file:
        yield from to_blocks(_Records(shard.id, options).read(file, shard, wanted), options)


@contextmanager
def opened_tar(shard: Shard) -> Iterator[ByteFile]:
    """The bytes of a tar, decompressed if necessary."""
    place = shard.open()
    with place.open_input() as raw:
        if shard.compressed:
            yield DecompressedFile(raw, shard.compression)
            return
        with io.BufferedReader(raw, _BUFFER_BYTES) as file:
            yield file


class _Records:
    """Groups the members of one shard into records and numbers them.

    Up to `window` records are open at once, in the order of their first members; one more closes the oldest.
    With a window of one, a record's members must be neighbours.
    """

    def __init__(self, shard_id: str, options: ReadOptions) -> None:
        self._shard_id = shard_id
        self._max_bytes = options.member_bytes
        self._column_of = options.column_of
        self._carry = {name.lower(): name for name in options.carry}
        self._split_at = options.key_split
        self._payload = options.payload
        self._window = options.regroup_rows if options.interleaved == "regroup" else 1
        self._wanted: Sequence[Missing] = ()
        self._open: OrderedDict[str, OpenRecord] = OrderedDict()
        self._open_bytes = 0
        self._row = self._closed = -1  # the last row that was started, and the last that is complete
        self._recent: OrderedDict[str, tuple[int, set[str]]] = OrderedDict()
        self._recent_chars = 0
        self._after_damage: Damage | None = None
        self._orphans: list[Unread] = []  # members of no record: reported with the next one
        self._links: Links | None = None  # None in a compressed tar, which has no random access

    def read(self, file: ByteFile, shard: Shard, wanted: Sequence[Missing]) -> Iterator[dict[str, Any]]:
        if self._window > 1:
            yield from self._walk(file, shard, wanted, start=0)
            return
        for gap in wanted:
            self._row = self._closed = gap.first - 1 if gap.start else -1
            yield from self._walk(file, shard, [gap], start=gap.start)

    def _walk(
        self, file: ByteFile, shard: Shard, wanted: Sequence[Missing], start: int
    ) -> Iterator[dict[str, Any]]:
        """The wanted rows, from a byte on, until they are complete."""
        self._wanted, last = wanted, wanted[-1].last
        self._open.clear()
        self._open_bytes, self._after_damage, self._orphans = 0, None, []
        size = None if shard.compressed else shard.size
        self._links = Links(file, size) if size is not None else None
        for part in walk(file, size, start=start, max_bytes=self._max_bytes, wanted=self._is_wanted):
            if isinstance(part, Damage):
                yield from self._add_damage(part)
            elif isinstance(part, Other):
                yield from self._add_other(part, file)
            else:
                yield from self._add(part)
            if last is not None and self._closed >= last:
                return
        if self._open:  # the last started record is
            last_one = next(reversed(self._open.values()))
            last_one.fields["end"] = True
            last_one.unread += self._orphans
        while self._open:
            yield from self._close()
        if self._row < 0:
            yield empty_row(self._shard_id, "", shard.size) | {"unread": said(self._orphans)}

    def _is_wanted(self, name: str) -> int:
        """How many bytes of a member's payload to read. Called before `_add`."""
        key, extension = split(name, self._split_at)
        if not self._payload or not self._row_is_wanted(
            self._open[key].row if key in self._open else self._row + 1
        ):
            return 0
        if extension in self._column_of:
            return ALL_BYTES
        return CARRIED_BYTES if extension in self._carry else HEAD_BYTES

    def _row_is_wanted(self, row: int) -> bool:
        return any(m.first <= row and (m.last is None or row <= m.last) for m in self._wanted)

    def _add_other(self, other: Other, file: ByteFile) -> Iterator[dict[str, Any]]:
        """A link, which is replaced by its target; or something that cannot be read."""
        key, extension = split(other.name, self._split_at)
        if other.target is None or not extension or of_system(other.name):
            self._pass_over(other.name, SPECIAL if other.target is None else NAMELESS)
            return
        found = self._links.find(other.target) if self._links else None
        if found is not None:
            data = None
            if found.size <= self._max_bytes and (wanted := self._is_wanted(other.name)):
                file.seek(found.offset)
                data = file.read(min(found.size, wanted))
            yield from self._add(Member(other.name, other.offset, other.end, found.size, data))
            return
        yield from self._open_record(other, key)
        kind = DANGLING if self._links else PACKED_LINK
        self._open[key].extensions.add(extension)
        modality = self._column_of.get(extension) or modality_of(extension)
        self._open[key].unread.append(Unread(kind, other.name, modality))

    def _pass_over(self, name: str, kind: str = NAMELESS) -> None:
        """A member that belongs to no record: it is reported with the next one."""
        if not is_meta(name) and len(self._orphans) < _MOST_ORPHANS:
            self._orphans.append(Unread(SYSTEM if of_system(name) else kind, name))

    def _open_record(self, part: Member | Other, key: str) -> Iterator[dict[str, Any]]:
        """Open the record of a member if necessary, which may close others."""
        if key not in self._open:
            yield from self._make_room()
            self._begin(key, part.offset)
        elif self._window == 1:
            self._after_damage = None  # the record continues, so the damage was inside it
        opened = self._open[key]
        opened.fields["length"] = part.end - opened.fields["offset"]
        opened.unread += self._orphans  # it is inside the record's bytes now
        self._orphans = []

    def _add(self, member: Member) -> Iterator[dict[str, Any]]:
        key, extension = split(member.name, self._split_at)
        if not extension or of_system(member.name):
            self._pass_over(member.name)
            return
        yield from self._open_record(member, key)
        opened = self._open[key]
        column = self._column_of.get(extension)
        repeated = extension in opened.extensions
        if len(opened.extensions) >= _MEMBERS and not repeated:
            opened.fail("too-many-members", f"more than {_MEMBERS} members, the last {member.name[:100]!r}")
            return
        opened.extensions.add(extension)
        if column is None:
            self._add_unlisted(opened, member, extension)
            return
        if repeated or column in opened.columns:
            opened.fail("repeated-member", f"more than one {column} member: {member.name!r} is the second")
            return
        opened.columns.add(column)
        if member.is_sparse:
            reason = f"{member.name!r} is a sparse file without its holes; write the tar without --sparse"
            opened.fail("member-sparse", reason)
        elif member.size > self._max_bytes:
            reason = (
                f"{member.name!r} has {member.size} bytes, more than limits.member_bytes={self._max_bytes}"
            )
            opened.fail("member-too-large", reason)
        elif opened.fields["error"] is None:
            opened.fields[column] = member.data
            opened.size += member.size
            self._open_bytes += member.size

    def _add_unlisted(self, opened: OpenRecord, member: Member, extension: str) -> None:
        """A member that no column takes."""
        if extension not in self._carry or member.size > CARRIED_BYTES:
            opened.unread.append(unlisted(member.name, extension, member.data, self._column_of))
        elif member.data is not None:
            opened.add_field(self._carry[extension], member.data)

    def _make_room(self) -> Iterator[dict[str, Any]]:
        """Close the oldest records until one more fits."""
        while self._open and (len(self._open) >= self._window or self._open_bytes > _REGROUP_BYTES):
            yield from self._close()

    def _add_damage(self, damage: Damage) -> Iterator[dict[str, Any]]:
        """The records that may contain the damage are lost, and the next one may lack members."""
        key = split(damage.name, self._split_at)[0] if damage.name else None
        if not self._open and key is None and self._row >= 0:
            self._after_damage = damage
            return  # reading began here: the damage belongs to the previous row, which is done
        if not self._open or (key is not None and key not in self._open):
            yield from self._make_room()
            self._begin(key or "", damage.offset)
        # A damaged range belongs to the record after it, so that a reader which begins there sees it again
        # and knows that the record may lack members.
        end = damage.offset if damage.kind == "shard-damaged" else damage.end
        for opened in [self._open[key]] if key is not None else self._open.values():
            opened.fields["length"] = end - opened.fields["offset"]
            opened.fail(damage.kind, damage.reason, "shard")
        next(reversed(self._open.values())).unread += self._orphans
        self._after_damage, self._orphans = damage, []

    def _begin(self, key: str, offset: int) -> None:
        self._row += 1
        damage, self._after_damage = self._after_damage, None
        start = damage.offset if damage else offset
        opened = self._open[key] = OpenRecord(new_row(self._shard_id, self._row, key, start, 0))
        opened.unread, self._orphans = self._orphans, []
        if damage:
            reason = f"may lack members lost just before it: {damage.reason}"
            opened.fail("shard-damaged", reason, "shard")

    def _close(self) -> Iterator[dict[str, Any]]:
        """The oldest open record, if it is wanted."""
        key, opened = self._open.popitem(last=False)
        self._open_bytes -= opened.size
        self._closed = opened.row
        earlier_row, earlier = self._recent.get(key, (-1, opened.extensions))
        if opened.extensions.isdisjoint(earlier):
            opened.fail("interleaved-members", self._scattered(earlier_row, earlier))
        self._remember(key, opened)
        if self._row_is_wanted(opened.row):
            opened.fields["unread"] = said(opened.unread)
            yield opened.fields

    def _remember(self, key: str, opened: OpenRecord) -> None:
        self._forget(key)
        self._recent[key] = (opened.row, opened.extensions)
        self._recent_chars += _chars(key, opened.extensions)
        while len(self._recent) > _RECENT_KEYS or self._recent_chars > _RECENT_CHARS:
            self._forget(next(iter(self._recent)))

    def _forget(self, key: str) -> None:
        if key in self._recent:
            self._recent_chars -= _chars(key, self._recent.pop(key)[1])

    def _scattered(self, row: int, extensions: set[str]) -> str:
        what = f"members of this key are not neighbours: row {row} has {', '.join(sorted(extensions))}"
        if self._window > 1:
            return f"{what}, more than {self._window} records before; raise regroup_rows"
        return f"{what}; set interleaved=regroup, or rewrite the shard so that they are neighbours"


def _chars(key: str, extensions: set[str]) -> int:
    return len(key) + sum(map(len, extensions))
