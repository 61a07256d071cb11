"""An Arrow IPC stream or file becomes rows, as Hugging Face writes it; its bytes are not trusted."""

import json
import random
import struct

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.media import image_bytes
from support.reading import columns, fault, read_rows

from mmray.coverage import Missing
from mmray.sources import list_shards

PNG = image_bytes()
EMBEDDED = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TABLE = pa.table(
    {
        "image": pa.array([{"bytes": PNG, "path": f"{i}.png"} for i in range(7)], EMBEDDED),
        "text": [f"caption {i}" for i in range(7)],
        "id": list(range(7)),
        "label": pa.array(["a", "b"] * 3 + ["a"]).dictionary_encode(),
    }
)


def arrow(table, *, kind="stream", compression=None, rows=3):
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    with new(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rows)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def write(tmp_path):
    def act(data, name="s.arrow"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return act


@pytest.mark.parametrize("kind", ["stream", "file"])
@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_each_row_has_its_columns(write, kind, compression):
    rows = read_rows(write(arrow(TABLE, kind=kind, compression=compression)))
    assert columns(rows, "row", "key", "text", "image", "offset", "length", "end") == [
        (i, str(i), f"caption {i}".encode(), PNG, i, 1, i == 6) for i in range(7)
    ]
    assert not any(row["error"] for row in rows)


def test_rows_of_a_dictionary(write):
    table = pa.table({"image": [PNG] * 4, "text": pa.array(["a", "b", "a", None]).dictionary_encode()})
    assert columns(read_rows(write(arrow(table))), "text") == [(b"a",), (b"b",), (b"a",), (None,)]


def test_a_file_is_known_by_its_first_bytes(write, tmp_path):
    write(arrow(TABLE, kind="file"), "s.feather")
    (shard,) = list_shards([str(tmp_path / "s.feather")])
    assert shard.format == "arrow"


@pytest.mark.parametrize("gap", [(0, 2), (1, 1), (3, 5), (2, 4), (6, 6), (4, None)])
def test_only_what_is_wanted_is_given(write, gap):
    path = write(arrow(TABLE))
    whole = read_rows(path)
    last = 6 if gap[1] is None else gap[1]
    assert read_rows(path, Missing(*gap, gap[0])) == whole[gap[0] : last + 1]


def test_columns_by_other_names(write):
    path = write(arrow(TABLE.rename_columns(["img", "words", "uid", "label"])))
    rows = read_rows(path, columns={"image": ("img",), "text": ("words",), "key": ("label",)})
    assert columns(rows[:2], "image", "text", "key") == [(PNG, b"caption 0", "a"), (PNG, b"caption 1", "b")]
    assert {fault(row) for row in read_rows(path)} == {"columns-missing"}


def test_a_file_without_rows_is_empty(write):
    (row,) = read_rows(write(arrow(TABLE.slice(0, 0))))
    assert (fault(row), row["end"]) == ("shard-empty", True)


@pytest.mark.parametrize("cut", [0, 5, 100, -1, -9, -100, -600])
def test_one_that_breaks_off_says_so_after_what_is_whole(write, cut):
    data = arrow(TABLE)
    rows = read_rows(write(data[:cut] if cut else b""))
    assert fault(rows[-1]) == "shard-truncated"
    assert rows[-1]["end"]
    whole = rows[:-1]
    assert [row["text"] for row in whole] == [f"caption {i}".encode() for i in range(len(whole))]
    assert len(whole) == {-1: 7, -9: 6, -100: 6}.get(cut, len(whole))


def test_a_bomb_is_refused_before_it_is_unpacked(write):
    data = bytearray(arrow(pa.table({"text": ["x" * 10_000] * 3}), compression="zstd"))
    at = data.rindex(b"\x28\xb5\x2f\xfd") - 8  # what the last buffer becomes
    assert struct.unpack_from("<q", data, at) == (30_000,)
    struct.pack_into("<q", data, at, 1 << 40)
    (row,) = read_rows(write(bytes(data)))
    assert fault(row) == "shard-unreadable"


def test_whatever_its_bytes_are_it_ends_in_rows(write):
    """Seeds are fixed: whatever was found once is looked for again."""
    data = arrow(TABLE, compression="zstd")
    for seed in range(300):
        chance = random.Random(seed)
        broken = bytearray(data)
        for _ in range(chance.choice([1, 1, 4, 20])):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        rows = read_rows(write(bytes(broken)))
        assert rows[-1]["end"]
        assert [row["row"] for row in rows] == list(range(len(rows)))
        assert len(rows) < 100 * len(data)


class TestHuggingFace:
    """Directories as its datasets and its hub leave them."""

    def test_a_saved_dataset(self, tmp_path):
        for split in ("train", "test"):
            folder = tmp_path / "set" / split
            folder.mkdir(parents=True)
            (folder / "data-00000-of-00001.arrow").write_bytes(arrow(TABLE))
            (folder / "cache-0123456789abcdef.arrow").write_bytes(arrow(TABLE))
            (folder / "state.json").write_text(json.dumps({"_data_files": []}))
            (folder / "dataset_info.json").write_text("{}")
        (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
        names = [shard.name for shard in list_shards([str(tmp_path / "set")])]
        assert names == [f"{split}/data-00000-of-00001.arrow" for split in ("test", "train")]

    def test_a_snapshot_of_the_hubs_cache(self, tmp_path):
        """Its files are links into a folder of blobs beside it, which have no suffix."""
        blobs = tmp_path / "datasets--me--set" / "blobs"
        data = tmp_path / "datasets--me--set" / "snapshots" / "abc" / "data"
        blobs.mkdir(parents=True)
        data.mkdir(parents=True)
        pq.write_table(TABLE, blobs / "0a1b")
        (data / "train-00000-of-00001-0a1b.parquet").symlink_to("../../../blobs/0a1b")
        (data.parent / "README.md").write_text("a card")
        for place in (data.parent, tmp_path / "datasets--me--set"):
            (shard,) = list_shards([str(place)])
            assert shard.format == "parquet"
            assert columns(read_rows(place), "image") == [(PNG,)] * 7
