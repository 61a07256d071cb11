"""Detects whether a file has changed since it was listed, by more than its name and size.

On a store by its ETag; for other files by size, time of writing and a digest of head and tail. If a local
file is untouched according to its inode, head and tail are not read again. Not detected: other bytes in the
middle of a file whose old time was restored.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from time import time

from mmray.errors import ChangedError
from mmray.storage import Location

_END_BYTES = 64 << 10  # of head and of tail
_DIGEST_BYTES = 16
# A store has times in seconds: a younger file may change again without a new time.
_STABLE_S = 5
_SECOND_NS = 1_000_000_000
_NONE = "-"


@dataclass(frozen=True)
class State:
    """State of a file at some time. Two states of the same file are compared by `difference`."""

    size: int  # bytes
    mtime_ns: int = 0  # 0: not known, or too young to be useful
    stamp: str = ""  # of a local file: inode and time of its last change of any kind
    version: str = ""  # of a store: ETag, or its equivalent
    digest: str = ""  # of head and tail; "": not read

    def to_text(self) -> str:
        """Everything except the size, in one short line: a run may have a million shards."""
        return f"{self.mtime_ns} {self.stamp or _NONE} {self.digest or _NONE} {self.version}"

    @classmethod
    def from_text(cls, size: int, text: str) -> State:
        """Reverse of `to_text`.

        Raises:
            ValueError: the text is not from `to_text`.
        """
        mtime_ns, stamp, digest, version = text.split(" ", 3)
        return cls(size, int(mtime_ns), stamp.strip(_NONE), version, digest.strip(_NONE))

    def is_surely(self, now: State) -> bool:
        """Whether the file is certainly untouched, by information that costs nothing."""
        then = self.size, self.mtime_ns, self.stamp
        return bool((self.stamp or self.mtime_ns) and then == (now.size, now.mtime_ns, now.stamp))

    def difference(self, now: State, *, moved: bool = False) -> str:
        """How the file's content changed, in words; "" if no change is known.

        Args:
            now: its state now, with version and digest.
            moved: whether the file may have been copied without keeping times or versions.
        """
        if self.size != now.size:
            return f"{now.size} bytes, was {self.size}"
        if self.version and now.version:
            if self.version == now.version:
                return ""
            if not moved:
                return f"version {now.version}, was {self.version}"
        elif self.is_surely(now):
            return ""
        if self.digest != now.digest and (self.digest and now.digest):
            return "another content"
        if moved or _same_time(self.mtime_ns, now.mtime_ns):
            return ""
        return f"written at {_when(now.mtime_ns)}, was at {_when(self.mtime_ns)}"


def stat_file(path: str) -> tuple[State, tuple[int, int]]:
    """State of a local file without its digest, and its identity: device and inode.

    Raises:
        OSError: it does not exist.
    """
    found = Path(path).stat()
    stamp = f"{found.st_ino:x}.{found.st_ctime_ns:x}"
    return State(found.st_size, found.st_mtime_ns, stamp), (found.st_dev, found.st_ino)


def look(place: Location, mtime_ns: int = 0) -> tuple[State, bytes]:
    """State of a file, and its first bytes.

    Args:
        place: the file.
        mtime_ns: its time, as listed; of a store only.

    Raises:
        OSError: it cannot be opened.
    """
    if place.is_local:
        with Path(place.path).open("rb", buffering=0) as file:
            state, _ = stat_file(place.path)
            head = file.read(_END_BYTES)
            file.seek(max(len(head), state.size - _END_BYTES))
            tail = file.read(_END_BYTES)
        return State(state.size, state.mtime_ns, state.stamp, "", _digest(head, tail)), head
    size, version, head, tail = place.glance(_END_BYTES)
    digest = _digest(head, tail) if head or not size else ""
    return State(size, trusted_mtime(mtime_ns), "", version, digest), head


def trusted_mtime(mtime_ns: int) -> int:
    """A time from a store; 0 while another content may still get the same time."""
    return mtime_ns if mtime_ns < (time() - _STABLE_S) * _SECOND_NS else 0


class Watch:
    """Compares a file while it is read with its state when it was listed."""

    def __init__(self, place: Location, state: State) -> None:
        self._place = place
        self._state = state
        self._seen = state  # state at the last comparison

    def check(self) -> None:
        """Compare again; for an untouched local file this takes one stat call.

        Raises:
            ChangedError: the file has changed.
            OSError: it is gone.
        """
        if self._place.is_local:
            if self._seen.is_surely(stat_file(self._place.path)[0]):
                return
            now, _ = look(self._place)
        elif self._state.version:
            now = State(self._state.size, version=self._place.current_version())
        else:
            info = self._place.info()
            now, _ = look(self._place, info.mtime_ns or 0)
        if why := self._state.difference(now):
            raise ChangedError(self._place, why)
        self._seen = now


def _digest(head: bytes, tail: bytes) -> str:
    return blake2b(head + tail, digest_size=_DIGEST_BYTES).hexdigest()


def _same_time(then: int, now: int) -> bool:
    """Whether two times may be equal: some copies keep only seconds, some stores have none."""
    if not then or not now:
        return True
    if then % _SECOND_NS == 0 or now % _SECOND_NS == 0:
        return then // _SECOND_NS == now // _SECOND_NS
    return then == now


def _when(mtime_ns: int) -> str:
    return datetime.fromtimestamp(mtime_ns / _SECOND_NS, UTC).isoformat(timespec="microseconds")
