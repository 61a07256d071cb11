"""The same 2,000 records in another format: killed and resumed, they give the predictions of the tars."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from support.command import Command
from support.predictions import assert_same_predictions

from mmray.pipeline.audit import audit
from mmray.pipeline.rundir import RunDirectory
from mmray.sources import list_shards
from mmray.sources.convert import convert
from mmray.sources.index import write_index

COPIES = 4  # of the small set make the large one
PICTURES = (".jpg", ".png", ".webp")
KEPT = (*PICTURES, ".txt")

Make = Callable[[Path, Path], None]


def to_lmdb(layout: str) -> Make:
    def make(tars: Path, target: Path) -> None:
        assert not any(made.lost for made in convert([str(tars)], str(target), "lmdb", layout))

    return make


def to_gzip(tars: Path, target: Path) -> None:
    for tar in tars.glob("*.tar"):
        (target / f"{tar.name}.gz").write_bytes(gzip.compress(tar.read_bytes(), 1))


def to_one_indexed_tar(tars: Path, target: Path) -> None:
    """One shard that several tasks share."""
    copy_members(sorted(tars.glob("*.tar")), target / "all.tar", lambda _: True)
    write_index(list_shards([str(target)])[0])


def copy_members(tars: list[Path], target: Path, wanted: Callable[[str], bool]) -> None:
    with tarfile.open(target, "w") as out:
        for path in tars:
            with tarfile.open(path) as tar:
                for member in tar:
                    if wanted(member.name):
                        out.addfile(member, tar.extractfile(member))


def pictures_with_captions(tars: Path, target: Path) -> Path:
    """What the layout of raw images can hold: each record that has a picture, with its caption."""
    target.mkdir()
    for path in tars.glob("*.tar"):
        with tarfile.open(path) as tar:
            pictured = {stem(name) for name in tar.getnames() if name.endswith(PICTURES)}
        copy_members([path], target / path.name, lambda n, p=pictured: n.endswith(KEPT) and stem(n) in p)
    return target


def stem(name: str) -> str:
    return name.partition(".")[0]


def repeat(small: Path, target: Path) -> Path:
    """Copies of all files under as many names as the large set has."""
    target.mkdir()
    for copy in range(COPIES):
        for file in small.iterdir():
            if file.suffix not in (".json", ".jsonl"):
                shutil.copyfile(file, target / f"{copy}-{file.name}")
    return target


def by_record(rows: pa.Table) -> pa.Table:
    """Predictions with a key that is unique over all shards, and the same in every format."""
    copies = pc.list_element(pc.split_pattern(rows["shard"], "-"), 0)
    keys = pc.binary_join_element_wise(copies, rows["key"], "/")
    return rows.drop_columns(["shard", "row", "key"]).append_column("key", keys)


@pytest.fixture(scope="session")
def small(many_shards: Path) -> Path:
    """The seven tars that the large set repeats."""
    return many_shards.parent / "small"


def killed_and_resumed(command: Command) -> pa.Table:
    process = command.start()
    command.wait_for_parts(process, 3)
    assert process.poll() is None, "the run ended before it was killed: give it more records"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    command.finish(command.start())
    assert audit(RunDirectory.at(str(command.output)), recount=True).ok
    return command.predictions()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(to_lmdb("members"), id="lmdb-members", marks=pytest.mark.long),
        pytest.param(to_lmdb("msgpack"), id="lmdb-msgpack", marks=pytest.mark.long),
        pytest.param(to_gzip, id="gzip", marks=pytest.mark.long),
        pytest.param(to_one_indexed_tar, id="indexed", marks=pytest.mark.long),
    ],
)
def test_another_format_gives_the_same_also_after_a_kill(small, undisturbed, command, tmp_path, make):
    made = tmp_path / "made"
    made.mkdir()
    make(small, made)
    other = Command(repeat(made, tmp_path / "in"), command.bundle, command.address, tmp_path / "out")
    assert_same_predictions(by_record(killed_and_resumed(other)), by_record(undisturbed), by=("key",))


@pytest.mark.long
def test_raw_images_with_captions_give_the_same_also_after_a_kill(small, command, tmp_path):
    tars = pictures_with_captions(small, tmp_path / "tars")
    to_lmdb("images")(tars, tmp_path / "made")
    plain = Command(repeat(tars, tmp_path / "plain"), command.bundle, command.address, tmp_path / "plain-out")
    plain.finish(plain.start())
    other = Command(
        repeat(tmp_path / "made", tmp_path / "in"), command.bundle, command.address, tmp_path / "out"
    )
    assert_same_predictions(by_record(killed_and_resumed(other)), by_record(plain.predictions()), by=("key",))
