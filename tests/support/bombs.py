"""Small shards that stand for a lot: what each grows to while it is read, in a process of bounded memory.

As a script it prints, for each, the types of its rows' errors, and by how many MB the process grew.
"""

import gzip
import json
import resource
import struct
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmray.errors import InputError
from mmray.sources import ReadOptions, list_shards, read, tar
from mmray.sources.index import Index
from support.checker import memory_mb
from support.lmdbs import write_lmdb
from support.tars import tar_bytes
from support.tfrecords import masked_crc, tfrecord

DATA_BYTES = 2 << 30  # of anonymous memory, beyond what the process has when it begins
HUGE = 200 << 20
PNG = b"\x89PNG\r\n\x1a\n"


def parquet(columns, **options):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd", write_statistics=False, **options)
    return sink.getvalue().to_pybytes()


def inflated_page(**options):
    """A value of 200 MiB in 7 KB."""
    return parquet({"image": pa.array([bytes(HUGE)], pa.large_binary()), "text": ["a"]}, **options)


def long_list():
    """A list of 2^24 equal values, which take no room in the file."""
    values = pa.array(np.zeros(1 << 24, np.uint8))
    cell = pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)
    return parquet({"image": cell, "text": ["a"]})


def lying_delta():
    """A page whose delta encoding states 2^31 lengths for 4,000 values: Arrow makes room for them."""
    encodings = {"image": "DELTA_LENGTH_BYTE_ARRAY"}
    sink = pa.BufferOutputStream()
    options = {"use_dictionary": False, "compression": "none", "write_statistics": False}
    pq.write_table(pa.table({"image": [b"x" * 3] * 4000}), sink, column_encoding=encodings, **options)
    data = bytearray(sink.getvalue().to_pybytes())
    at = data.index(b"\x80\x01\x04\xa0\x1f")  # blocks of 128 in 4 parts, 4,000 in all
    lie = b"\x80\x80\x80\x80\x04\x01\xff\xff\xff\xff\x07\x06\0\0"  # of 2^30 in one part, 2^31 - 1 in all
    data[at : at + len(lie)] = lie
    return bytes(data)


def long_footer(thrift):
    return b"PAR1" + thrift + struct.pack("<I", len(thrift)) + b"PAR1"


def zstd(*parts):
    """Pieces, each so many times, packed as one stream without holding them."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as packed:
        for piece, times in parts:
            for _ in range(times):
                packed.write(piece)
    return sink.getvalue().to_pybytes()


def header(name, size=0):
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def long_names(count, size=60_000):
    """Records whose names are long: the walk remembers keys, to tell those that come again."""
    for i in range(count):
        yield header(f"{i:04d}" + "n" * size + ".txt"), 1


def sparse_tfrecord(path):
    """A record of a gibibyte, whose length has its checksum. None of it is there: the file has a hole."""
    size = struct.pack("<Q", 1 << 30)
    path.write_bytes(size + masked_crc(size))
    with path.open("r+b") as file:
        file.truncate(12 + (1 << 30) + 4)


def packed_record():
    """A record of 300 MiB in 300 KB."""
    size = struct.pack("<Q", 300 << 20)
    head = gzip.compress(size + masked_crc(size))
    return head + gzip.compress(bytes(100 << 20)) * 3 + gzip.compress(bytes(4))


MIB, ONE = bytes(1 << 20), tar_bytes([("a.txt", b"a dog")])
BOMBS = {
    "page.parquet": lambda: inflated_page(use_dictionary=False),
    "dictionary.parquet": inflated_page,
    "second.parquet": lambda: inflated_page(data_page_version="2.0"),
    "delta.parquet": lying_delta,
    "values.parquet": long_list,
    "rows.parquet": lambda: parquet({"text": pa.nulls(300_000, pa.string())}),
    "list.parquet": lambda: long_footer(b"\x15\x02\x19\xfc\xff\xff\xff\xff\x07" + bytes(100)),
    "nested.parquet": lambda: long_footer(b"\x1c" * 200_000),
    "zeros.tar.zst": lambda: zstd((ONE, 1), (MIB, 200)),
    "member.tar.zst": lambda: zstd((header("a.png", 1 << 33), 1), (MIB, 200)),
    "names.tar.zst": lambda: zstd(*long_names(3000), (bytes(1024), 1)),
    "window.tar.zst": lambda: b"\x28\xb5\x2f\xfd\x00\xa8" + b"\x01\x00\x00" * 20,
    "length.tfrecord": sparse_tfrecord,
    "record.tfrecord.gz": packed_record,
    "fields.tfrecord": lambda: tfrecord([b"\x0a\x00" * 300_000]),
    "maps.lmdb": lambda: [
        ("a", b"\x82\xa3png\xc4\x08" + PNG + b"\xa4meta\xdd\x7f\xff\xff\xff"),
        ("b", b"\xdf\xff\xff\xff\xff"),
    ],
    "index.tar": lambda: ONE,
}


def write(path, made):
    if isinstance(made, list):
        write_lmdb(path, made)
    elif made is not None:
        path.write_bytes(made)
    if path.stem == "index":
        rows = pa.array([7], pa.int64()).take(pa.nulls(5_000_000, pa.int32()).fill_null(0))
        index = parquet({"row": rows, "offset": rows})
        path.with_name(path.name + ".mmidx").write_bytes(index)


def explode(path):
    """Types of the errors of a shard's rows; of what its index says, if it has one."""
    (shard,) = list_shards([str(path)])
    kinds = set()
    for block in read(shard, ReadOptions()):
        kinds |= {e and f"{e['stage']}/{e['type']}" for e in block["error"].to_pylist()}
    if shard.indexed:
        try:
            kinds.add(f"index of {Index.load(shard).rows} rows")
        except InputError as e:
            kinds.add(str(e).partition(": ")[2])
    return kinds


def main(folder):
    paths = [Path(folder) / name for name in sorted(BOMBS)]
    tar._SEARCH_BYTES = 100 << 20  # ten times as much takes ten times as long
    pq.read_table(pa.BufferReader(parquet({"text": ["so that Arrow's allocator has its arena"]})))
    limit = int(memory_mb("VmData") * 1e6) + DATA_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    for path in paths:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = memory_mb("VmRSS")
        try:
            kinds = sorted(map(str, explode(path)))
        except BaseException as e:
            kinds = [repr(e)]
        print(json.dumps([path.name, kinds, round(memory_mb("VmHWM") - before)]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
