"""No shard, however damaged, ends as anything but predictions and rejects, in bounded time and memory.

jobs/bench/fuzz.py does this over 10,000 shards; here are the worst that it has met, some that no chance would
make, and fresh ones.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from support.checker import LIMITS, Checker
from support.media import clip, encode, image_bytes, photo
from support.scripts import ROOT
from support.tars import BLOCK, good_records, members_of, tar_bytes

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.tar"))
FRESH = 300


@pytest.fixture(scope="module")
def check(tmp_path_factory):
    return Checker(tmp_path_factory.mktemp("fuzz"))


def header(name="a.png", kind=tarfile.REGTYPE, size=0):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def one(**members):
    return tar_bytes([(f"k.{extension}", data) for extension, data in members.items()])


def many_scans():
    """A progressive JPEG that tells its last scan again and again: seconds of work for each kilobyte."""
    data = encode(photo(64, 64), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * 500 + b"\xff\xd9"


def names_of_names():
    """Long names for long names for …: each was read again for each header before it."""
    return (header("L", tarfile.GNUTYPE_LONGNAME, 100) + bytes([97] * BLOCK)) * 1_200 + b"\xff" * BLOCK


def slashes(size):
    """A name of slashes: the expression that told key from extension tried each with each."""
    return header("L", tarfile.GNUTYPE_LONGNAME, size) + b"/" * size + bytes(-size % BLOCK) + header()


HOSTILE = {
    "names of names": (names_of_names, "shard/shard-damaged"),
    "a name of slashes": (lambda: slashes(60_000), "shard/shard-truncated"),
    "a name of megabytes": (lambda: slashes(3 << 20), "shard/shard-damaged"),
    "a member that ends beyond 2^63": (
        lambda: header(kind=b"Z", size=2**80) + bytes(BLOCK),
        "shard/shard-truncated",
    ),
    "a negative size": (lambda: header(size=-512) + bytes(BLOCK), "shard/shard-damaged"),
    "zeros": (lambda: bytes(1 << 20), "read/shard-empty"),
    "an empty file": (bytes, "shard/shard-truncated"),
    "an oversized member": (lambda: one(png=bytes(LIMITS.member_bytes + 1)), "read/member-too-large"),
    "a JPEG of many scans": (lambda: one(jpg=many_scans()), "preprocess/image-too-complex"),
    "an image of another format": (lambda: one(png=image_bytes("PPM")), "preprocess/image-undecodable"),
    "a sound of another format": (lambda: one(wav=clip("VOC")), "preprocess/audio-undecodable"),
    "scores of NaN": (lambda: one(txt=b"nan"), "infer/not-finite"),
    "a model that fails": (lambda: one(txt=b"poison"), "infer/model-error"),
}


def test_sound_shards_are_predicted_whole(check):
    case = check(tar_bytes(members_of(good_records(10))))
    assert case.fault is None
    assert case.kinds == {"predicted": 20}  # once where damage is rejected, once where it is masked


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_the_worst_that_was_met(check, path):
    case = check(path.read_bytes())
    assert case.fault is None
    stage, _, kind = path.stem.partition("-")
    if stage in ("shard", "read", "preprocess"):  # the file is kept for this reject
        assert case.kinds[f"{stage}/{kind}"]


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_chance_would_make(check, name):
    make, kind = HOSTILE[name]
    case = check(make())
    assert case.fault is None
    assert case.kinds[kind]


def test_fresh_damage(tmp_path):
    """Another seed each time; a finding is printed with its seed, and kept below pytest's folder."""
    seed = str(random.randrange(10**6))
    command = [sys.executable, "jobs/bench/fuzz.py", "--cases", str(FRESH), "--seed", seed]
    done = subprocess.run(
        [*command, "--findings", str(tmp_path / "findings")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["cases"], result["findings"]) == (FRESH, 0)
    assert result["predicted"] > FRESH / 3  # the damage is not so heavy that nothing gets through
    assert len(result["rejects"]) > 8
