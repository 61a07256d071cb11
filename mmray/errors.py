"""Every error that mmray raises on purpose, and the exit code it ends a command with.

MmrayError
├── UsageError            exit 2: the request is not possible; nothing was changed
│   ├── ConfigError       a key or value of the run config
│   ├── InputError        the records: missing, empty, or of an unknown kind
│   ├── BundleError       the bundle directory: unreadable, incomplete or altered
│   ├── ModelError        a model to import: its files, inputs or outputs do not fit
│   └── OutputError       the run directory: made by another run, or not writable
├── CannotError           a store, or its client here, has no such request; caught where there is an
alternative ├── EngineError           exit 3: the model could not be loaded or run as requested ├── RunError
exit 3: the run was interrupted; running it again resumes it │   ├── StoreError        (mmray.remote) a store
refused, or failed at all attempts │   └── ChangedError      a shard has changed since the run was planned └──
AuditError           exit 1: input, predictions and rejects do not add up, or too many rejects

A bad *record* is never an exception outside the function that found it: it becomes a row with an
`error` (see mmray.schema). `Preprocessing functions raise `RecordError` internally, and readers raise
`ShardError` if they cannot find the following records.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

# Messages of libraries that have no exception for lack of memory: Pillow, libsndfile.
_NO_MEMORY = re.compile(r"^out of memory|Internal malloc", re.IGNORECASE)
_ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-f]+>", re.IGNORECASE)


class MmrayError(Exception):
    """Base of all deliberate errors. Its message names the thing, the place and the remedy."""

    exit_code = 3


class UsageError(MmrayError):
    """The request is not possible; nothing was changed."""

    exit_code = 2


class ConfigError(UsageError):
    """A key or a value of a config is wrong."""


class InputError(UsageError):
    """The input has no readable records."""


class BundleError(UsageError):
    """The bundle directory is unreadable, incomplete or altered."""


class ModelError(UsageError):
    """A model cannot become a bundle as it is: its files, inputs, outputs or preprocessing do not fit."""


class OutputError(UsageError):
    """The run directory belongs to another run, or cannot be written."""


class CannotError(MmrayError):
    """This store, or this installation, cannot do it; nothing was done."""


class EngineError(MmrayError):
    """The model could not be loaded or run on the requested provider."""


class RunError(MmrayError):
    """The run was interrupted; written parts are kept, and running it again resumes it."""


class ChangedError(RunError, OSError):
    """A shard has changed since it was listed: its rows are not those that were planned."""

    def __init__(self, place: object, why: str) -> None:
        remedy = "run again when it is no longer written; the run says how to continue"
        super().__init__(f"{place}: changed since the run was planned: {why}; {remedy}")


class SignalError(BaseException):
    """A signal asks the command to stop; written parts are kept, and running it again resumes it.

    Not an Exception, like KeyboardInterrupt: a library that handles every Exception would continue.
    """

    exit_code = 3


class Terminated(SignalError):  # noqa: N818  (an event, not a fault)
    """SIGTERM."""


class Interrupted(SignalError):  # noqa: N818  (as above)
    """SIGINT, as from Ctrl-C."""

    exit_code = 130


class AuditError(MmrayError):
    """Input, predictions and rejects do not add up, or there are more rejects than allowed."""

    exit_code = 1


class RecordError(Exception):
    """One modality of one record cannot be used. Caught for each record; users never see it as a traceback.

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
        """A library's error on unreadable bytes, as text, for any type of error.

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
    """Whether a library's exception is about the machine (memory, handles, disk), not about its input.

    Codecs work on bytes in memory. So an OSError with a number comes from the system; one without is the
    library's own error about the bytes, such as Pillow's for a truncated picture. Stores raise our errors.
    """
    if isinstance(failure, MemoryError | MmrayError):
        return True
    if isinstance(failure, OSError) and failure.errno is not None:
        return True
    return bool(_NO_MEMORY.search(str(failure)))


@contextmanager
def about_record(doing: str, kind: str) -> Iterator[None]:
    """Exceptions of a library on the bytes of one record, raised in the body, are the record's fault.

    Of any type: no library lists all exceptions that untrusted bytes can cause. Faults of the machine pass
    through. The body must contain only the library's call, because our own bugs are not a record's fault.

    Args:
        doing: what failed, as in "cannot decode the image".
        kind: of the RecordError.

    Raises:
        RecordError: with the exception's type and message.
    """
    try:
        yield
    except RecordError:
        raise
    except BaseException as e:
        is_panic = type(e).__name__ == "PanicException"  # from a library in Rust; derives from BaseException
        if of_machine(e) or not (isinstance(e, Exception) or is_panic):
            raise
        raise RecordError(f"{doing}: {_ADDRESS.sub('its bytes', one_line(e))}", kind) from e
