"""Reading shards in tests, with an eye on which bytes are touched."""

import io

from mmray.sources import ReadOptions, list_shards, read
from mmray.sources.tar import ALL_BYTES, Damage, walk


def shard_at(path):
    return list_shards([str(path)])[0]


def read_rows(path, *wanted, **options):
    """Rows of a shard as dictionaries; all of them where no Missing is given."""
    arguments = (wanted,) if wanted else ()
    blocks = read(shard_at(path), ReadOptions(**options), *arguments)
    return [row for block in blocks for row in block.to_pylist()]


def columns(rows, *names):
    return [tuple(row[name] for name in names) for row in rows]


def fault(row):
    """Type of a row's error, or None; its stage must say whether the damage is of unknown extent."""
    if row["error"]:
        assert (row["error"]["stage"] == "shard") == hides_others(row["error"]["type"]), row["error"]
    return row["error"] and row["error"]["type"]


def hides_others(kind):
    """Whether an error of this type stands for an unknown number of records."""
    return kind.startswith("shard-") and kind != "shard-empty"


class SpyFile(io.BytesIO):
    """A file that remembers which byte ranges were read."""

    def __init__(self, data):
        super().__init__(data)
        self.reads = []

    def read(self, size=-1, /):
        start = self.tell()
        data = super().read(size)
        self.reads.append((start, start + len(data)))
        return data


def walk_all(tar, *, start=0, max_bytes=1 << 20, wanted=lambda _: ALL_BYTES, size=None):
    """Members and damage of a tar given as bytes."""
    return list(
        walk(
            io.BytesIO(tar),
            {None: len(tar), "unknown": None}.get(size, size),
            start=start,
            max_bytes=max_bytes,
            wanted=wanted,
        )
    )


def names(parts):
    """Member names; the kind of damage in angle brackets."""
    return [f"<{part.kind}>" if isinstance(part, Damage) else part.name for part in parts]
