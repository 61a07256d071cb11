"""Columns view bytes where they lie, however long these are and wherever."""

import mmap
import os

import numpy as np
import pyarrow as pa
import pytest

from mmray.sources.views import Source, to_column

GIB = 1 << 30


def test_values_of_every_length_are_what_lies_there():
    """Those of at most twelve bytes are in the view itself; the last ones end where the source ends."""
    data = os.urandom(40)
    sizes = np.arange(30)
    at = len(data) - sizes
    column = Source(pa.py_buffer(data)).column(at, sizes)
    column.validate(full=True)
    assert column.to_pylist() == [data[begin:] for begin in at]


def test_values_lie_anywhere_in_a_file_of_more_than_two_gib(tmp_path):
    """Places in one buffer of Arrow's are int32."""
    path = tmp_path / "sparse"
    at = np.array([5 * GIB - 50, 0, GIB - 20, GIB, 2 * GIB - 1, 2 * GIB + 1, 4 * GIB + 7])
    written = [os.urandom(40) for _ in at]
    with path.open("wb+") as file:
        file.truncate(5 * GIB)
        for begin, data in zip(at.tolist(), written, strict=True):
            file.seek(begin)
            file.write(data)
        file.flush()
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    sizes = np.full(len(at), 40)
    # Writings overlap, so what lies there is asked of the file.
    expected = [mapped[begin : begin + 40] for begin in at.tolist()]
    column = Source(pa.py_buffer(mapped)).column(at, sizes)
    column.validate(full=True)
    assert column.to_pylist() == expected


@pytest.mark.parametrize("valid", [[True, True], [True, False], [False, False]])
def test_values_that_are_not_valid_are_null(valid):
    views, buffers = Source(pa.py_buffer(b"x" * 40)).views(np.array([0, 20]), np.array([3, 20]))
    column = to_column(views, buffers, np.array(valid))
    expected = zip((b"x" * 3, b"x" * 20), valid, strict=True)
    assert column.to_pylist() == [value if there else None for value, there in expected]
    assert column.null_count == valid.count(False)


def test_a_column_keeps_its_source():
    data = np.frombuffer(os.urandom(1000), np.uint8).copy()
    expected = data.tobytes()
    column = Source(pa.py_buffer(data)).column(np.array([0]), np.array([1000]))
    del data
    assert column.to_pylist() == [expected]
