"""Lists the shards of the inputs: each file once, even with several names; its bytes decide its format."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from posixpath import commonpath
from urllib.parse import urlsplit

from mmray.errors import InputError
from mmray.remote import RefusedError, StoreError
from mmray.sources.among import Found
from mmray.sources.expand import expand
from mmray.sources.formats import SUFFIXES, Kind, by_bytes, recognized
from mmray.sources.lmdb_check import check_all
from mmray.sources.parallel import THREADS, in_parallel
from mmray.sources.patterns import shadowed
from mmray.sources.shards import Shard
from mmray.sources.state import State, look, stat_file, trusted_mtime
from mmray.storage import Location
from mmray.stores import Listed
from mmray.unread import Tally, kind_of_file
from mmray.urls import REQUESTS

_DEFAULT = Kind("webdataset")  # a file that is named is read, with any name
_EXAMPLES = 3  # in a note
# Files of a store: of more than so many only some are opened.
_MANY = 10_000
_SOME = 2_000
_AMONG = 3  # so many times as many objects are listed for their versions, if others lie among them
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Listing:
    """The shards that some inputs name, sorted by id."""

    shards: list[Shard]
    notes: list[str]  # notes about them, a line each
    unread: Tally = field(default_factory=Tally)  # files among them that are not shards, by kind


def list_shards(inputs: Sequence[str]) -> list[Shard]:
    """Only the shards of `take_listing`."""
    return take_listing(inputs).shards


def take_listing(inputs: Sequence[str], known: Iterable[Shard] = ()) -> Listing:
    """List the shards that the inputs name.

    Args:
        inputs: directories (searched recursively), files, LMDBs, globs, or brace patterns such as
            ``data/train-{000000..000099}.tar``; paths or URLs. In a directory that also has other shards,
            Parquet files are assumed to be tables of metadata.
        known: earlier listing: a file that was not touched since is not opened again.

    Raises:
        InputError: an input without shards, two files with the same id, or an LMDB that is not on a local
            disk.
        StoreError: a store does not answer.
    """
    before = {shard.url: shard for shard in known if shard.state}
    expanded = expand(inputs)
    seen = _see_all(expanded.found, before)
    for one in seen:
        if not one.is_shard:
            expanded.unread.add(kind_of_file(one.found.place.path), one.found.place.url)
    once, doubles = _each_once([one for one in seen if one.is_shard])
    if not once:
        raise InputError(f"{inputs[0]}: no shards ({', '.join(SUFFIXES)}) there; check --input")
    shards: dict[str, Shard] = {}
    for shard in _shards(once):
        if shards.setdefault(shard.id, shard).url != shard.url:
            raise InputError(
                f"{shard.url} and {shards[shard.id].url} have the same name and size below their inputs; "
                "give their common directory as the one input instead"
            )
    others = [
        f"{seen.found.place} is {seen.kind}"
        for seen in once
        if not seen.fault and seen.found.hint not in (None, seen.kind)
    ]
    notes = [
        *_note(doubles, "further names of the same files, ignored"),
        *_note(others, "files that are read by their content, not by their names"),
        *_note(
            [said for text in inputs if (said := shadowed(text))],
            "paths that exist literally, so they are not patterns; give the other files separately",
        ),
    ]
    return Listing([shards[id] for id in sorted(shards)], notes, expanded.unread)


@dataclass(frozen=True)
class _Seen:
    """A file, and what was found in it."""

    found: Found
    key: tuple[object, ...]  # equal for all names of one file
    kind: Kind
    state: State | None = None  # None: it could not be opened
    fault: str = ""
    is_shard: bool = True  # False: another file among them, with a name without a known suffix

    @property
    def size(self) -> int:
        return self.state.size if self.state else self.found.size

    @property
    def rank(self) -> tuple[object, ...]:
        """Order of a file's names; the first is kept: not a link, short, from the outermost input."""
        path = self.found.place.path
        linked = self.found.place.is_local and os.path.realpath(path) != path
        return linked, len(path), path, len(self.found.root), self.found.place.url


def _see_all(found: Sequence[Found], known: Mapping[str, Shard]) -> list[_Seen]:
    """Examine each file; of many on a store only a sample, if their bytes match their names."""
    is_local = all(one.place.is_local for one in found)
    threads = THREADS if is_local else REQUESTS
    see, some = partial(_see, known=known), _to_look_at(found)
    rest = (one for i, one in enumerate(found) if i not in some)
    listed = _listed([one.file for one in rest if not _is_known(known.get(one.place.url), _state_of(one))])

    def see_some(i: int) -> _Seen:
        return see(found[i], opens=i in some, listed=listed.get(found[i].file.url))

    seen = list(in_parallel(see_some, range(len(found)), threads))
    if len(some) < len(found) and any(map(_is_surprising, seen)):
        return list(in_parallel(see, found, threads))
    return seen


def _to_look_at(found: Sequence[Found]) -> Collection[int]:
    """Positions of the files whose bytes are examined, which takes three requests each.

    Of many files on a store with names of shards, only a sample is examined.
    """
    named = [i for i, one in enumerate(found) if one.hint and not one.doubtful and not one.place.is_local]
    if len(named) <= _MANY:
        return range(len(found))
    return set(range(len(found))) - set(named) | set(named[:: len(named) // _SOME])


def _listed(files: Sequence[Location]) -> dict[str, Listed]:
    """The files by URL, with versions from the listings of their stores, if available."""
    groups: dict[tuple[str, str, str], list[Location]] = defaultdict(list)
    for file in files:
        groups[file.prefix, file.query, file.path.partition("/")[0]].append(file)
    told = {}
    for group in groups.values():
        common = commonpath([file.parent.path for file in group])
        base = replace(group[0], path=f"{common}/")
        among = base.listed(_AMONG * len(group))
        told.update({file.url: among[file.path] for file in group if file.path in among})
    return told


def _is_surprising(seen: _Seen) -> bool:
    return bool(seen.fault) or seen.found.hint not in (None, seen.kind)


def _see(
    found: Found, known: Mapping[str, Shard], *, opens: bool = True, listed: Listed | None = None
) -> _Seen:
    place, file = found.place, found.file
    earlier = known.get(place.url)
    hint = found.hint or _DEFAULT
    if found.state:  # a folder of files: its listing is enough
        path = os.path.realpath(place.path) if place.is_local else _spelled(place.path)
        return _Seen(found, ("folder", place.filesystem.type_name, path), hint, found.state)
    key: tuple[object, ...] = (place.filesystem.type_name, _spelled(place.path), found.size, found.mtime_ns)
    try:
        now = _state_of(found)
        if place.is_local:
            now, key = stat_file(file.path)
        if earlier and earlier.state and _is_known(earlier, now):
            kind = Kind(earlier.format, earlier.compression)
            return _Seen(found, (*key, earlier.state.version), kind, earlier.state)
        if not opens:
            is_same = listed and listed.size == found.size  # not written between the two listings
            if version := (listed.version if listed and is_same else "") or file.current_version():
                return _Seen(found, (*key, version), hint, replace(now, version=version))
        state, head = look(file, found.mtime_ns)
    except OSError as e:
        if isinstance(e, StoreError) and not isinstance(e, RefusedError):
            raise  # an outage, not a file that cannot be opened
        return _Seen(found, (*key, ""), hint)  # its reader reports why
    if found.doubtful:
        told = recognized(head)
        return _Seen(found, (*key, state.version), told or hint, state, is_shard=told is not None)
    kind, fault = by_bytes(head, hint) if file == place else (hint, "")
    return _Seen(found, (*key, state.version), kind, state, fault and f"{place}: {fault}")


def _state_of(found: Found) -> State:
    """State of a file from a store's listing."""
    return State(found.size, trusted_mtime(found.mtime_ns))


def _is_known(earlier: Shard | None, now: State) -> bool:
    return bool(earlier and earlier.state and earlier.state.is_surely(now))


def _spelled(path: str) -> str:
    """A path in one spelling if it is on a web server; any other unchanged."""
    parts = urlsplit(path)
    if parts.scheme not in _PORTS:
        return path
    port = "" if parts.port in (None, _PORTS[parts.scheme]) else f":{parts.port}"
    return parts._replace(netloc=f"{parts.hostname}{port}").geturl()


def _each_once(seen: Sequence[_Seen]) -> tuple[list[_Seen], list[str]]:
    """One name of each file, in the order of the files; and the files of all other names."""
    names: dict[tuple[object, ...], list[_Seen]] = {}
    for one in seen:
        names.setdefault(one.key, []).append(one)
    kept, doubles = [], []
    for same in names.values():
        first = min(same, key=lambda one: one.rank) if len(same) > 1 else same[0]
        kept.append(first)
        others = [one for one in same if one is not first]
        doubles += [_double(one.found.place.url, first.found.place.url) for one in others]
    return kept, doubles


def _double(name: str, kept: str) -> str:
    return f"{name} is {kept}" if name != kept else f"{name} twice"


def _shards(seen: Sequence[_Seen]) -> Iterable[Shard]:
    """Shards of files. The id of an LMDB, whose size may not change, also has its last transaction."""
    lmdbs = [one.found.place for one in seen if one.kind.format == "lmdb"]
    for place in lmdbs:
        if not place.is_local:
            raise InputError(
                f"{place}: an LMDB can only be read from a local disk; copy it to one, or convert it to tars "
                "where it was made: mmray convert --to webdataset"
            )
    checked = iter(check_all([place.path for place in lmdbs]))
    for one in seen:
        found, kind, fault, transaction = one.found, one.kind, one.fault, ""
        if kind.format == "lmdb":
            number, wrong = next(checked)
            one = _anew(one)  # a state from before a commit would not match the transaction
            transaction = "" if wrong else f"t{number}"
            fault = fault or (wrong and f"{found.place}: {wrong}")
        name = found.place.path[len(found.root) :].lstrip("/") or "."  # the input itself, a folder of files
        id = f"{name}@{one.size}{transaction}"
        url = found.place.url
        yield Shard(id, url, one.size, kind.format, kind.compression, one.state, found.indexed, fault)


def _anew(seen: _Seen) -> _Seen:
    """The same shard, if the file is untouched; else with its current state."""
    path = seen.found.file.path
    if seen.state is None or seen.state.is_surely(stat_file(path)[0]):
        return seen
    return replace(seen, state=look(seen.found.file)[0])


def _note(cases: Sequence[str], what: str) -> list[str]:
    """One line about all of them."""
    more = ", …" if len(cases) > _EXAMPLES else ""
    return [f"{what} ({len(cases)}): {', '.join(cases[:_EXAMPLES])}{more}"] if cases else []
