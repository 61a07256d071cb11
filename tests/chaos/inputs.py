"""Shards of every format whose records are known, good and bad, and how one of them changes."""

from __future__ import annotations

import io
import random
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import lmdb
import pyarrow as pa
import pyarrow.parquet as pq
from support.media import clip, image_bytes
from support.stores import Bucket

from mmray.storage import Location

KINDS = ("tar", "lmdb", "parquet", "s3")
_SUFFIXES = {"tar": ".tar", "lmdb": ".lmdb", "parquet": ".parquet", "s3": ".tar"}
_BAD_ONE_IN = 17

#: What makes a record bad, and why it must be rejected then.
_BAD = {
    "text": (b"\xff\xfe no text", "text-"),
    "image": (b"\x89PNG\r\n\x1a\n and no more", "image-"),
}

Record = dict[str, bytes]


@dataclass
class Input:
    """The input of one round."""

    kind: str
    folder: Path
    bucket: Bucket | None
    chance: random.Random
    shards: dict[str, dict[str, str]] = field(default_factory=dict)  # name: key: why it is bad, or ""
    changed: set[str] = field(default_factory=set)

    def make(self, shards: int, rows: int) -> None:
        """Write so many shards of so many records."""
        self.folder.mkdir()
        for number in range(shards):
            self._write(
                f"s{number:02}{_SUFFIXES[self.kind]}", [f"{number:02}-{row:04}" for row in range(rows)]
            )

    @property
    def url(self) -> str:
        return self.bucket.url("in") if self.bucket else str(self.folder)

    @property
    def truth(self) -> dict[tuple[str, str], str]:
        """Of each record, by shard and key, why it must be rejected; "" where it must not."""
        return {(name, key): why for name, keys in self.shards.items() for key, why in keys.items()}

    def change(self) -> str:
        """Replace a shard by one with other records; its name."""
        name = self.chance.choice(sorted(self.shards))
        keys = sorted(self.shards[name])
        keys[self.chance.randrange(len(keys))] += "x"  # one is another now; one more may come
        keys += [f"{keys[-1]}y"] * self.chance.randint(0, 1)
        self._write(name, keys)
        self.changed.add(name)
        return name

    def _write(self, name: str, keys: list[str]) -> None:
        records: dict[str, Record] = {}
        self.shards[name] = {}
        for number, key in enumerate(keys):
            records[key], why = self._record(number)
            self.shards[name][key] = why
        path = self.folder / name
        if self.kind == "lmdb":
            _write_lmdb(path, records)
        elif self.kind == "parquet":
            _replace(path, _parquet(records))
        elif self.bucket:
            Location.parse(self.bucket.url(f"in/{name}")).write_atomically(_tar(records))
        else:
            _replace(path, _tar(records))

    def _record(self, number: int) -> tuple[Record, str]:
        colour = (self.chance.randrange(256), 90, 40)
        record: Record = {
            "image": image_bytes("JPEG", size=(200, 200), colour=colour),
            "text": f"a red cat number {number}".encode(),
            "audio": clip("WAV", hz=200 + 10 * (number % 50), seconds=1.0),
        }
        if self.chance.randrange(_BAD_ONE_IN):
            return record, ""
        what = self.chance.choice(sorted(_BAD))
        record[what], why = _BAD[what]
        return record, why


def _replace(path: Path, data: bytes) -> None:
    """As whoever replaces a file should: a reader has the old one or the new one."""
    beside = path.with_name(f"{path.name}.new")
    beside.write_bytes(data)
    beside.replace(path)


def _tar(records: dict[str, Record]) -> bytes:
    buffer = io.BytesIO()
    extensions = {"image": "jpg", "text": "txt", "audio": "wav"}
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for key, record in records.items():
            for what, data in record.items():
                info = tarfile.TarInfo(f"{key}.{extensions[what]}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _parquet(records: dict[str, Record]) -> bytes:
    buffer = io.BytesIO()
    columns = {what: [record[what] for record in records.values()] for what in ("image", "text", "audio")}
    table = pa.table({"key": list(records), **{k: pa.array(v, pa.binary()) for k, v in columns.items()}})
    pq.write_table(table, buffer, row_group_size=20)
    return buffer.getvalue()


def _write_lmdb(path: Path, records: dict[str, Record]) -> None:
    """In one transaction, in place: whoever reads has the old records or the new ones."""
    extensions = {"image": "jpg", "text": "txt", "audio": "wav"}
    with lmdb.open(str(path), map_size=1 << 30) as environment, environment.begin(write=True) as transaction:
        transaction.drop(environment.open_db(txn=transaction), delete=False)
        for key, record in records.items():
            for what, data in record.items():
                transaction.put(f"{key}.{extensions[what]}".encode(), data)
