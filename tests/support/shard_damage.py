"""Seeded damage to a small shard of every format, and what reading it may end in: rows, or an OSError.

As a script it does so in a process of its own, whose memory is bounded, and prints what it met.
"""

import gzip
import json
import random
import resource
import sys
import tarfile
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path

import msgpack
import pyarrow as pa
import pyarrow.parquet as pq

from mmray.sources import ReadOptions, list_shards, read
from support.checker import memory_mb
from support.lmdbs import write_images, write_lmdb, write_maps, write_members
from support.reading import hides_others
from support.tars import members_of, tar_bytes
from support.tfrecords import tfrecord

DATA_BYTES = 1 << 30  # of anonymous memory, beyond what the process has when it begins
GROWTH_MB = 200
RUNS = (b"\xff" * 8, bytes(8), b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff\x0f", b"\x80" * 12, b"99999999999")


@cache
def seeds():
    """Bytes of a sound shard, by name."""
    noise = random.Random(0).randbytes
    records = [
        (f"dir/k{i:02d}", {"txt": b"caption", "json": b'{"a": 1}', "png": noise(600)}) for i in range(9)
    ]
    long_names = [("x" * 150 + name, data) for name, data in members_of(records)]
    pax, gnu = (tar_bytes(long_names, form) for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
    examples = [{"key": k.encode(), "image": v["png"], "text": v["txt"]} for k, v in records]
    found = {
        "pax.tar": pax,
        "gnu.tar": gnu,
        "packed.tar.gz": gzip.compress(pax, mtime=0),
        "packed.tar.zst": pa.compress(gnu, codec="zstd", asbytes=True),
        "examples.tfrecord": tfrecord(examples),
        "packed.tfrecord.gz": gzip.compress(tfrecord(examples), mtime=0),
    }
    plain = {"key": [k for k, _ in records], "image": [v["png"] for _, v in records], "text": ["a dog"] * 9}
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": bytes(i), "path": None} for i in range(9)], struct)
    captions = pa.array(["a", "b", "c"] * 3).dictionary_encode()
    lists = {
        "image": pa.array([[int(b) for b in v["png"]] for _, v in records], pa.list_(pa.uint8())),
        "caption": [["a", "b"], [], None] * 3,
        "json": [{"a": [1, 2]}] * 9,
    }
    delta = dict.fromkeys(("key", "text"), "DELTA_BYTE_ARRAY") | {"image": "DELTA_LENGTH_BYTE_ARRAY"}
    tables = {
        "plain": (plain, {"row_group_size": 4}),
        "second": (plain, {"data_page_version": "2.0", "compression": "zstd", "write_page_checksum": True}),
        "faces": ({"image": images, "caption": captions}, {"write_batch_size": 3, "data_page_size": 1}),
        "lists": (lists, {"row_group_size": 4}),
        "delta": (plain, {"use_dictionary": False, "compression": "none", "column_encoding": delta}),
    }
    for name, (columns, options) in tables.items():
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink, **options)
        found[f"{name}.parquet"] = sink.getvalue().to_pybytes()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.lmdb"
        for version in (0, 1):
            for write in (write_members, write_maps):
                made = write(path, records, lib_version=version)
                found[f"{write.__name__[6:]}{version}.lmdb"] = made.read_bytes()
        png = [b"\x89PNG\r\n\x1a\n" + v["png"] for _, v in records]
        numbered = {f"image-{i:09d}": data for i, data in enumerate(png, 1)}
        numbered |= {f"label-{i:09d}": b"a dog" for i in range(1, 10)} | {"num-samples": b"9"}
        found["numbered.lmdb"] = write_lmdb(path, numbered.items()).read_bytes()
        raw = b"\x08\x03\x10\x05\x18\x08\x22\x78" + noise(120) + b"\x28\x01"
        found["datum.lmdb"] = write_lmdb(path, [(f"{i:08d}", raw) for i in range(9)]).read_bytes()
        listed = [(f"{i}", msgpack.packb((data, i))) for i, data in enumerate(png)]
        found["listed.lmdb"] = write_lmdb(path, listed).read_bytes()
        found["images.lmdb"] = write_images(
            path, [(k, b"\x89PNG\r\n\x1a\n" + v["png"]) for k, v in records]
        ).read_bytes()
    return found


def mutated(chance, data):
    """Damage in some places, half of them among the last bytes, where footers lie."""
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at = chance.randrange(max(0, len(data) - 1500) if chance.random() < 0.5 else 0, len(data))
        part = slice(at, at + chance.randrange(1, 600))
        kind = chance.choice(("byte", "byte", "bit", "bit", "cut", "repeat", "run", "run"))
        if kind == "byte":
            data[at] = chance.randrange(256)
        elif kind == "bit":
            data[at] ^= 1 << chance.randrange(8)
        elif kind == "cut":
            del data[part]
        elif kind == "repeat":
            data[at:at] = data[part]
        else:
            run = chance.choice(RUNS)
            data[at : at + len(run)] = run
        data = data or bytearray(b"x")
    return bytes(data)


def kinds_of(shard, options):
    """What became of the rows of a shard; they must be numbered, and one of them the last."""
    try:
        rows = [
            row for block in read(shard, options) for row in block.select(["row", "end", "error"]).to_pylist()
        ]
    except OSError as e:
        return Counter(["OSError" if Path(shard.url).name in str(e) else f"an OSError without a name: {e}"])
    assert [row["row"] for row in rows] == list(range(len(rows)))
    assert [row["end"] for row in rows] == [False] * (len(rows) - 1) + [True]
    errors = [row["error"] for row in rows]
    assert all(e is None or (e["stage"] == "shard") == hides_others(e["type"]) for e in errors), errors
    return Counter(f"{e['stage']}/{e['type']}" if e else "sound" for e in errors)


def main(seed, rounds):
    """Read each seed as it is, then that many mutants. What breaks the promise ends the process, by name."""
    chance, kinds = random.Random(seed), Counter()
    limit = int(memory_mb("VmData") * 1e6) + DATA_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            for name, data in seeds().items():
                (Path(folder) / name).write_bytes(mutated(chance, data) if number else data)
            for shard in list_shards([str(Path(folder) / name) for name in seeds()]):
                case = Path(shard.url)
                Path("/proc/self/clear_refs").write_text("5")  # resets the peak
                before = memory_mb("VmRSS")
                options = ReadOptions(
                    views=chance.random() < 0.3, payload=chance.random() < 0.8, block_rows=4
                )
                print(
                    f"seed {seed}, round {number}, {case.name}", file=sys.stderr, flush=True
                )  # if it dies of it
                kinds += Counter({f"{case.name} {kind}": n for kind, n in kinds_of(shard, options).items()})
                assert memory_mb("VmHWM") - before < GROWTH_MB
    print(json.dumps(kinds))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
