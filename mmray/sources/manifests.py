"""Whether a CSV or JSONL in a directory is a manifest: a table of files and captions."""

from __future__ import annotations

import io

from mmray.errors import RecordError, ShardError
from mmray.sources.fields import fields_of
from mmray.sources.folder_files import METADATA
from mmray.sources.lines import Rows
from mmray.sources.naming import Naming
from mmray.sources.options import ReadOptions
from mmray.sources.table import is_table
from mmray.storage import Location

_HEAD_BYTES = 64 << 10
_HEAD_ROWS = 64


def is_manifest(place: Location, *, among_files: bool) -> bool:
    """Whether the first rows of a file name pictures or sounds.

    Args:
        place: the file; one that cannot be opened is not a manifest.
        among_files: whether its directory has loose files; then the table of a folder is not a manifest.
    """
    try:
        with place.open_input() as file:
            head = bytes(file.read(_HEAD_BYTES))
    except OSError:
        return False
    cut = head if head.endswith(b"\n") else head[: head.rfind(b"\n") + 1] or head
    if among_files and place.name in METADATA and is_table(cut, place.name):
        return False
    return _names_files(cut, place.name)


def _names_files(head: bytes, name: str) -> bool:
    naming = Naming(ReadOptions())
    try:
        for row, _ in zip(Rows(io.BytesIO(head), name).walk(), range(_HEAD_ROWS), strict=False):
            if not row.fault and fields_of(row.values, naming).files:
                return True
    except (ShardError, RecordError):
        return False
    return False
