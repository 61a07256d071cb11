"""The lease of a run directory: one run at a time may write, on local disks, shared disks and stores.

It needs only consistent listings, which S3, GCS and Azure guarantee: a run first writes its lease, then lists
all leases. Of two runs that do so, at least one sees the other and gives up; so there are never two, as in
Lamport's bakery ("A New Solution of Dijkstra's Concurrent Programming Problem", CACM 17:8, 1974). The lease
is also the fencing token: it is written once, a run that takes over deletes it, and workers check it before
each part that they write.

Both runs may give up, and other stores may list late. So if a store can create an object only if it does not
exist (`Location.create`), a run first takes a turn: a number one higher than any listed turn. Of runs that
start at the same time one gets it. Turns of dead runs need no cleanup: the next number is higher.
"""

from __future__ import annotations

import json
import os
import platform
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Self
from uuid import uuid4

from mmray.errors import OutputError
from mmray.pipeline.rundir import RunDirectory
from mmray.storage import Location

_BEAT_S = 5.0
_SILENT_S = 6 * _BEAT_S  # after so long without a heartbeat, a process on another machine is considered dead
_POLL_S = 1.0
_TRIES = 5  # retries while others try at the same time
_LEASE, _BEAT, _TURN = ".claim", ".beat", ".turn"  # of file names


@dataclass(frozen=True)
class Holder:
    """A process that holds the lease of a run directory."""

    host: str
    machine: str  # namespace of the process id
    process: int
    born: str  # distinguishes it from a later process of the same id
    since: str

    @classmethod
    def this(cls) -> Self:
        process = os.getpid()
        since = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(platform.node(), _machine(), process, _born(process) or "", since)

    @property
    def is_here(self) -> bool:
        return self.machine == _machine()

    @property
    def is_dead(self) -> bool:
        """The holder of this process."""
        return _born(self.process) != self.born

    def __str__(self) -> str:
        return f"process {self.process} of {self.host}, since {self.since}"


@contextmanager
def held(out: RunDirectory, say: Callable[[str], None], wait_s: float = 0.0) -> Iterator[RunDirectory]:
    """The run directory, to write to while the body runs.

    Args:
        out: the run directory.
        say: gets messages on waiting and on taking over.
        wait_s: how long to wait for another run that uses it.

    Raises:
        OutputError: another run uses it, or it cannot be written to.
    """
    with out.writing():
        out.leases.make_directory()
        lease = _acquired(out, _once(say), wait_s)
    beat = lease.parent / (lease.name.removesuffix(_LEASE) + _BEAT)
    done = threading.Event()
    beating = threading.Thread(target=_beat, args=(lease, beat, done), name="lease", daemon=True)
    beating.start()
    try:
        yield replace(out, lease=lease)
    finally:
        done.set()
        beating.join()
        with suppress(OSError):  # the next run sees that this process is dead
            beat.delete()
            lease.delete()


def _acquired(out: RunDirectory, say: Callable[[str], None], wait_s: float) -> Location:
    """Wait for a lease, until no other live process has one."""
    until = monotonic() + wait_s
    while True:
        try:
            return _tried(out, say)
        except OutputError as e:
            if monotonic() >= until:
                raise
            say(f"waits up to {wait_s:.0f} s: {str(e).partition(';')[0]}")
            sleep(_BEAT_S)


def _tried(out: RunDirectory, say: Callable[[str], None]) -> Location:
    """Take a lease, if no other live process has one.

    Raises:
        OutputError: another run uses it, or several start at once.
    """
    for _ in range(_TRIES):
        if not _has_turn(out):
            sleep(random.uniform(0, _POLL_S))  # its holder will have the lease soon, and is named then
            continue
        lease = out.leases / f"{uuid4().hex[:12]}{_LEASE}"
        lease.write_atomically(json.dumps(asdict(Holder.this())).encode())
        try:
            if _is_alone(out, lease, say):
                return lease
        except BaseException:
            lease.delete()
            raise
        lease.delete()
        sleep(random.uniform(0, _POLL_S))  # the other one also only tries; it may give up
    raise OutputError(f"{out}: other runs start in it at the same time; choose another --output")


def _has_turn(out: RunDirectory) -> bool:
    """Whether this run is the first of those that start now, if the store can decide that."""
    turns = [file.base_name for file in out.leases.files() if file.base_name.endswith(_TURN)]
    last = max((int(name.removesuffix(_TURN)) for name in turns), default=0)
    if (out.leases / f"{last + 1:08d}{_TURN}").create(uuid4().hex.encode()) is False:
        return False
    for name in turns:
        (out.leases / name).delete()
    return True


def _is_alone(out: RunDirectory, lease: Location, say: Callable[[str], None]) -> bool:
    """Whether no other live process has a lease; leases of dead ones are deleted.

    Raises:
        OutputError: another run uses it.
    """
    for other in _others(out, lease):
        holder = _holder(other)
        if holder is None:
            continue
        if _is_gone(other, holder, say):
            say(f"took over from {holder}, which has ended")
            other.delete()
        elif _beat_of(other) is None:
            return False
        else:
            raise OutputError(f"{out}: {holder}, uses it; wait for it, stop it, or choose another --output")
    return True


def _once(say: Callable[[str], None]) -> Callable[[str], None]:
    """Pass messages on, but none twice."""
    said = set[str]()

    def act(words: str) -> None:
        if words not in said:
            said.add(words)
            say(words)

    return act


def _others(out: RunDirectory, lease: Location) -> list[Location]:
    names = [file.base_name for file in out.leases.files()]
    return [out.leases / name for name in names if name.endswith(_LEASE) and name != lease.name]


def _holder(lease: Location) -> Holder | None:
    """The holder of a lease; None if it was deleted meanwhile, or is not a lease."""
    try:
        return Holder(**json.loads(lease.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _is_gone(lease: Location, holder: Holder, say: Callable[[str], None]) -> bool:
    if holder.is_here:
        return holder.is_dead
    before, until = _beat_of(lease), monotonic() + _SILENT_S
    say(f"waits up to {_SILENT_S:.0f} s to see whether {holder}, still uses it")
    while monotonic() < until:
        if _beat_of(lease) != before:
            return False
        sleep(_POLL_S)
    return True


def _beat_of(lease: Location) -> bytes | None:
    try:
        return (lease.parent / (lease.name.removesuffix(_LEASE) + _BEAT)).read_bytes()
    except FileNotFoundError:
        return None


def _beat(lease: Location, beat: Location, done: threading.Event) -> None:
    """Write heartbeats as long as this process has its lease."""
    count = 0
    while True:
        with suppress(OSError):  # a full disk or a temporary outage of a store: the process is still alive
            if not lease.exists():
                return
            beat.write_atomically(str(count).encode())
            count += 1
        if done.wait(_BEAT_S):
            return


def _machine() -> str:
    """One running system, in one namespace of process ids."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return platform.node()


def _born(process: int) -> str | None:
    """When a process started; None if there is none, or only a zombie. Fields 22 and 3 in proc(5)."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except ProcessLookupError:
        return None
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return None
        try:  # not Linux
            os.kill(process, 0)
        except ProcessLookupError:
            return None
        return ""
    return None if fields[0] in "ZX" else fields[19]
