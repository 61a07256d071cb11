"""Who is to blame: a fault of the machine is never one of the bytes that it could not read."""

import errno

import pyarrow as pa
import pytest

from mmray.errors import ShardError, of_machine
from mmray.remote import StoreError


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (OSError(errno.EIO, "the disk"), True),
        (FileNotFoundError(errno.ENOENT, "gone"), True),
        (MemoryError(), True),
        (pa.ArrowMemoryError("malloc failed"), True),
        (StoreError("the network"), True),
        (OSError("what pyarrow says of a page"), False),
        (pa.ArrowInvalid("no Parquet"), False),
        (ZeroDivisionError(), False),
        (RecursionError(), False),
    ],
)
def test_faults_of_the_machine_are_told_from_those_of_bytes(failure, expected):
    assert of_machine(failure) is expected


def test_a_shard_fault_has_the_name_of_what_a_library_raised():
    fault = ShardError.of(ZeroDivisionError(), "a page")
    assert (fault.kind, fault.reason) == ("shard-damaged", "a page: no reason given (ZeroDivisionError)")
