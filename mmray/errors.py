"""Every error that mmray raises on purpose, and the exit code it ends a command with.

MmrayError
├── UsageError            exit 2: what was asked for cannot be done; nothing was touched
│   ├── ConfigError       a key or value of the run config
│   ├── InputError        the records: missing, empty, or of an unknown kind
│   ├── BundleError       the bundle directory: unreadable, incomplete or altered
│   ├── ModelError        a model that was to become a bundle: its files, inputs or outputs do not fit
│   └── OutputError       the run directory: made by another run, or not writable
├── EngineError           exit 3: the model could not be loaded or run as asked
├── RunError             exit 3: the run broke off; running it again resumes it
│   └── StoreError        (mmray.remote) a store refused, or failed for as long as we tried
└── AuditError           exit 1: input, predictions and rejects do not add up, or too many rejects

A bad *record* is never an exception outside the function that found it: it becomes a row with an
`error` (see mmray.schema). `RecordError` is how a preprocessing function says so to its caller, and
`ShardError` how a reader says that it cannot find the records that follow.
"""

from __future__ import annotations


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


class EngineError(MmrayError):
    """The model could not be loaded or run on the provider that was asked for."""


class RunError(MmrayError):
    """The run broke off; what is written stays, and running it again resumes it."""


class Interrupted(RunError):  # noqa: N818  (what happened, not a fault)
    """Somebody pressed Ctrl-C; what is written stays, and running it again resumes it."""

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


def is_of_machine(failure: BaseException) -> bool:
    """Whether the machine or a store failed, and not the bytes that were read: then no record is to blame.

    Libraries raise OSErrors of their own for bytes that they do not like; those of the machine have an errno.
    """
    machine = isinstance(failure, MemoryError | MmrayError)
    return machine or (isinstance(failure, OSError) and failure.errno is not None)


def one_line(failure: BaseException) -> str:
    """An error in one line: a deliberate one by its message, any other with its type."""
    first = next((line.strip() for line in str(failure).splitlines() if line.strip()), "")
    return first if isinstance(failure, MmrayError) else f"{type(failure).__name__}: {first}"
