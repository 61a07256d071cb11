"""Every error that mmray raises on purpose, and the exit code it ends a command with.

MmrayError
├── UsageError            exit 2: what was asked for cannot be done; nothing was touched
│   ├── ConfigError       a key or value of the run config
│   ├── InputError        the records: missing, empty, or of an unknown kind
│   ├── BundleError       the bundle directory: unreadable, incomplete or altered
│   ├── ModelError        a model that was to become a bundle: its files, inputs or outputs do not fit
│   └── OutputError       the run directory: made by another run, or not writable
├── CannotError           a store, or its client here, has no such request; caught where another way is taken
├── EngineError           exit 3: the model could not be loaded or run as asked
├── RunError             exit 3: the run broke off; running it again resumes it
│   ├── StoreError        (mmray.remote) a store refused, or failed for as long as we tried
│   └── ChangedError      a shard is no longer what it was when the run was planned
└── AuditError           exit 1: input, predictions and rejects do not add up, or too many rejects

A bad *record* is never an exception outside the function that found it: it becomes a row with an
`error` (see mmray.schema). `RecordError` is how a preprocessing function says so to its caller, and
`ShardError` how a reader says that it cannot find the records that follow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

# How libraries say that memory ran out which have no exception for it: Pillow, libsndfile.
_NO_MEMORY = re.compile(r"^out of memory|Internal malloc", re.IGNORECASE)
_ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-f]+>", re.IGNORECASE)


class MmrayError(Exception):
    """Base of all deliberate errors. Its message names the thing, the place and the remedy."""

    exit_code = 3


class UsageError(MmrayError):
    """What was asked for cannot be done; nothing was touched."""

    exit_code = 2


class ConfigError(UsageError):
    """A key or a value of a config is wrong."""


class InputError(UsageError):
    """The input holds no records that can be read."""


class BundleError(UsageError):
    """The bundle directory is unreadable, incomplete or altered."""


class ModelError(UsageError):
    """A model cannot become a bundle as it is: its files, inputs, outputs or preprocessing do not fit."""


class OutputError(UsageError):
    """The run directory belongs to another run, or cannot be written."""


class CannotError(MmrayError):
    """This store, or this installation, has no way to do it; nothing was done."""


class EngineError(MmrayError):
    """The model could not be loaded or run on the provider that was asked for."""


class RunError(MmrayError):
    """The run broke off; what is written stays, and running it again resumes it."""


class ChangedError(RunError, OSError):
    """A shard is no longer what it was when it was listed: its rows are not those that were planned."""

    def __init__(self, place: object, why: str) -> None:
        remedy = "run again once nobody writes to it; the run says how to continue"
        super().__init__(f"{place}: changed since the run was planned: {why}; {remedy}")


class SignalError(BaseException):
    """A signal asks the command to end; what is written stays, and running it again resumes it.

    Like KeyboardInterrupt no Exception: a library that answers each Exception by a second way would go on.
    """

    exit_code = 3


class Terminated(SignalError):  # noqa: N818  (what happened, not a fault)
    """SIGTERM."""


class Interrupted(SignalError):  # noqa: N818  (likewise)
    """SIGINT: somebody pressed Ctrl-C."""

    exit_code = 130


class AuditError(MmrayError):
    """Input, predictions and rejects do not add up, or there are more rejects than allowed."""

    exit_code = 1


class RecordError(Exception):
    """One modality of one record cannot be used. Caught per record, never seen by a user as a trace.

    Args:
        reason: what is wrong with the bytes, in a few words.
        kind: a stable identifier to group by, such as ``"image-truncated"``.
    """

    def __init__(self, reason: str, kind: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.kind = kind


class ShardError(Exception):
    """Damage hides an unknown number of a shard's records. Its reader makes it a row of stage "shard".

    Args:
        reason: what is wrong with the bytes, in a few words.
        kind: "shard-truncated", "shard-damaged" or "shard-unreadable", to group by.
    """

    def __init__(self, reason: str, kind: str = "shard-damaged") -> None:
        super().__init__(reason)
        self.reason = reason
        self.kind = kind

    @classmethod
    def of(cls, failure: Exception, what: str) -> ShardError:
        """What a library says of bytes that it cannot read, whatever type of error it chose.

        Args:
            failure: of the library.
            what: the place that it could not read.
        """
        return cls(f"{what}: {str(failure) or 'no reason given'} ({type(failure).__name__})")


def one_line(failure: BaseException) -> str:
    """An error in one line: a deliberate one by its message, any other with its type."""
    first = next((line.strip() for line in str(failure).splitlines() if line.strip()), "")
    return first if isinstance(failure, MmrayError) else f"{type(failure).__name__}: {first}"


def of_machine(failure: BaseException) -> bool:
    """Whether what a library raised tells of the machine (memory, handles, disk), not of what it was given.

    Codecs work on bytes that are in memory. So an OSError with a number comes from the system; one without is
    the library's own word about the bytes, as Pillow's of a truncated picture. A store speaks by our errors.
    """
    if isinstance(failure, MemoryError | MmrayError):
        return True
    if isinstance(failure, OSError) and failure.errno is not None:
        return True
    return bool(_NO_MEMORY.search(str(failure)))


@contextmanager
def about_record(doing: str, kind: str) -> Iterator[None]:
    """While the body calls a library on the bytes of one record, what that raises is the record's fault.

    Whatever its type: no library lists all that foreign bytes can make it raise. Faults of the machine pass.
    Nothing but the library's call belongs into the body, for our own mistakes are no record's either.

    Args:
        doing: what failed then, as in "cannot decode the image".
        kind: of the RecordError.

    Raises:
        RecordError: names the exception's type and what it says.
    """
    try:
        yield
    except RecordError:
        raise
    except BaseException as e:
        is_panic = type(e).__name__ == "PanicException"  # of a library in Rust; derives from BaseException
        if of_machine(e) or not (isinstance(e, Exception) or is_panic):
            raise
        raise RecordError(f"{doing}: {_ADDRESS.sub('its bytes', one_line(e))}", kind) from e
