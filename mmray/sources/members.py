"""Records of an LMDB that are neighbouring entries `<key>.<extension>`, named as the members of a tar."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from mmray.sources.beside import CARRIED_BYTES, listed
from mmray.sources.layouts import SUFFIXES, Contents, Fault, Found, Layout, Payload, too_large
from mmray.sources.names import encoded, of_system, split_name, text_of
from mmray.sources.unlisted import HEAD_BYTES, unlisted
from mmray.unread import Unread

_UNKNOWN = "unknown"  # column of an extension that did not occur before
_TINY_BYTES = 16  # a member of at most so many bytes is neither an image nor a sound


class Members(Layout):
    """Neighbouring entries `<key>.<extension>` are a record."""

    def group(self, first: int) -> Iterator[Found]:
        entries = self._snapshot.walk(max(0, first - 1), values=self._payload)
        before = b"".join(name for name, _ in islice(entries, min(first, 1)))
        key, begin, stop, self.orphans = None, first, first, []
        members: Contents = {}
        fault: Fault | None = None
        columns, limit, payload = self._columns, self._limit, self._payload
        last = self._split_at == "last"
        for number, (name, value) in enumerate(entries, first):
            stem, _, suffix = name.rpartition(b".") if last else name.partition(b".")
            column = columns.get(suffix, _UNKNOWN)
            # Whether it cannot simply be split at that dot; the empty name is in b"/", too.
            odd = column is _UNKNOWN or (
                stem != key and (stem[-1:] in b"/" or stem[:2] == b"__" or (last and b"._" in name))
            )
            if odd:
                stem, column = self._split(name)
                if column is _UNKNOWN:
                    self.pass_over(name)
                    before = name
                    continue
            if stem != key:
                if key is not None:
                    yield key, begin, stop, fault or members
                key, begin, members, fault = stem, number, {}, None
                if before and before.startswith(stem + b".") and self._first_name(stem) != name:
                    between = (
                        f"entries whose names begin with {text_of(stem)}.… are between them; rename those"
                    )
                    fault = Fault(f"members of this key are not neighbours: {between}", "interleaved-members")
            stop = number + 1
            if self.orphans:  # it is before the record, or among its entries
                self.take_orphans(members)
            if column is not None:
                if column in members:
                    reason = f"more than one {column} member: {text_of(name)} is the second"
                    fault = fault or Fault(reason, "repeated-member")
                elif len(value) > limit:
                    fault = fault or too_large(f"member {text_of(name)!r}", len(value), limit)
                members[column] = value
            elif payload:
                self._add_unlisted(members, name, suffix, value)
            before = name if odd or last else b""  # no other key can be among the entries of a record
        if key is not None:
            self.take_orphans(members)
            yield key, begin, stop, fault or members

    def _add_unlisted(self, members: Contents, name: bytes, suffix: bytes, value: Payload) -> None:
        """A member that no column takes."""
        if len(value) <= _TINY_BYTES and not self._carried and (tiny := self._tiny.get(suffix)):
            members["unread"] = members["unread"] + tiny if "unread" in members else tiny
            return
        extension = split_name(name, self._split_at)[1]
        if len(value) <= CARRIED_BYTES and self.carry(members, extension, _stripped(value)):
            return
        # Such a small member is neither a picture nor a sound: its report must not depend on which one of its
        # kind occurred first.
        head = bytes(value[:HEAD_BYTES]) if len(value) > _TINY_BYTES else None
        thing = unlisted(text_of(name), extension, head, self._column_of)
        if thing.modality is None:  # then one object for all equal records
            if len(self._tiny) >= SUFFIXES:
                self._tiny.clear()
            thing = Unread(thing.kind, f".{text_of(encoded(extension))}")
            said = self._tiny.setdefault(suffix, listed([thing]) or [])
        else:
            said = listed([thing]) or []
        members["unread"] = members["unread"] + said if "unread" in members else said

    def _split(self, name: bytes) -> tuple[bytes, str | None]:
        """Key and column: _UNKNOWN for entries of no record, None if no column takes it."""
        key, extension = split_name(name, self._split_at)
        if not extension or of_system(text_of(name)):
            return key, _UNKNOWN
        suffix = name[len(key) + 1 :]
        column = suffix.decode("utf-8", "surrogateescape") if self.whole else self._column_of.get(extension)
        if b"." not in key or self._split_at == "last":
            if len(self._columns) >= SUFFIXES:
                self._columns.clear()
            self._columns[suffix] = column
        return key, column

    def _first_name(self, key: bytes) -> bytes:
        """The first name with a key."""
        if self._first is None or self._first[0] != key:
            names = self._snapshot.keys_from(key + b".")
            parts = ((name, *split_name(name, self._split_at)) for name in names)
            self._first = key, next((n for n, stem, extension in parts if stem == key and extension), b"")
        return self._first[1]


def _stripped(value: Payload) -> bytes:
    """A small member as it is carried: without the newline at its end."""
    return bytes(value).strip()
