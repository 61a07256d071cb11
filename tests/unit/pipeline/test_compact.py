"""The file of footers saves opening the parts, and never says anything that they do not."""

import os
import random
from pathlib import Path

import pytest
from support.outcomes import begin, rows_of, shard, write

from mmray.errors import RunError
from mmray.pipeline import compact
from mmray.pipeline.audit import audit
from mmray.pipeline.ledger import Ledger, Part
from mmray.pipeline.rundir import RunDirectory

SHARDS = [shard(f"{i:02d}.tar", 6) for i in range(20)]


@pytest.fixture
def out(tmp_path, monkeypatch):
    """A run directory, as the run has it that may write there, with a part for each shard but the last."""
    monkeypatch.setattr(compact, "_LEAST", 1)
    made = begin(tmp_path / "run", *SHARDS)
    for one in SHARDS[:-1]:
        write(made, rows_of(one))
    made.leases.make_directory()
    (made.leases / "mine").write_atomically(b"")
    return RunDirectory(made.root, made.leases / "mine")


@pytest.fixture
def opened(monkeypatch):
    """Names of the parts whose files are opened from now on."""
    names, read = [], Part.read.__func__

    def noted(cls, place):
        names.append(place.name)
        return read(cls, place)

    monkeypatch.setattr(Part, "read", classmethod(noted))
    return names


def cache(out):
    return Path(out.footers.path)


def names(out):
    return sorted(file.base_name for file in out.parts.files())


def truth(out):
    return Ledger.load(out, uncached=True)


def test_each_part_is_opened_once(out, opened):
    first = Ledger.load(out)
    assert sorted(opened) == names(out)
    opened.clear()
    assert Ledger.load(out) == first
    assert opened == []
    late = write(out, rows_of(SHARDS[-1]))
    assert Ledger.load(out) == truth(out)
    assert opened[0] == late.name
    assert opened.count(late.name) == 2  # once here, once for the truth


def test_who_does_not_hold_the_directory_writes_nothing(out):
    Ledger.load(RunDirectory(out.root))
    assert not cache(out).exists()
    (out.leases / "mine").delete()
    with pytest.raises(RunError, match="another run has taken it over"):
        Ledger.load(out)
    assert not cache(out).exists()


def test_parts_that_went_and_parts_that_were_written_anew_are_seen(out, opened):
    Ledger.load(out)
    gone, anew, *_ = names(out)
    (out.parts / gone).delete()
    (out.rejects / gone).delete()
    content = (out.parts / anew).read_bytes()
    (out.parts / anew).write_atomically(content)  # of the same size
    opened.clear()
    ledger = Ledger.load(out)
    assert opened == [anew]
    assert ledger == truth(out)
    assert ledger.missing(SHARDS)[0][0] == SHARDS[0]


def test_a_part_that_was_damaged_since_is_no_part(out):
    Ledger.load(out)
    name = names(out)[3]
    Path((out.parts / name).path).write_bytes(b"torn")
    assert Ledger.load(out).foreign == [name]


def test_an_audit_opens_every_part_whatever_is_known(out, opened):
    Ledger.load(out)
    opened.clear()
    audit(out)
    assert sorted(opened) == names(out)


@pytest.mark.parametrize("seed", range(30))
def test_whatever_becomes_of_the_file_the_ledger_is_that_of_the_parts(out, seed):
    """Torn, altered in some bytes, replaced by something else, or of another run."""
    rng, expected = random.Random(seed), truth(out)
    Ledger.load(out)
    content = bytearray(cache(out).read_bytes())
    if seed % 3 == 0:
        content = content[: rng.randrange(len(content))]
    else:
        for _ in range(1 + seed % 4):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    cache(out).write_bytes(content if seed else b"")
    assert Ledger.load(out) == expected


def test_a_footer_that_cannot_be_understood_is_read_again(out, opened):
    files = {file.base_name: file for file in out.parts.files()}
    compact.keep(out, ((file, b'{"coverage": 3}') for file in files.values()))
    assert Ledger.load(out) == truth(out)


DEATHS = ("written", "listed", "kept")


@pytest.mark.parametrize("point", DEATHS)
def test_a_crash_at_any_point_loses_nothing(out, monkeypatch, point):
    """Before the new file is in place, or after it and before whatever comes next: parts came meanwhile."""
    Ledger.load(out)
    late = write(out, rows_of(SHARDS[-1]))
    monkeypatch.setattr(compact, "_SHARE", 0.0)  # so that it is written anew

    def die(*_):
        raise KeyboardInterrupt

    if point == "written":
        monkeypatch.setattr(os, "fsync", die)
    elif point == "listed":
        monkeypatch.setattr(compact, "keep", die)
    else:
        monkeypatch.setattr(Ledger, "of", die)
    with pytest.raises(KeyboardInterrupt):
        Ledger.load(out)
    monkeypatch.undo()
    ledger = Ledger.load(out)
    assert late.name in {part.name for part in ledger.parts}
    assert ledger == truth(out)
    assert not ledger.missing(SHARDS)


def test_it_is_written_anew_only_after_so_many_parts_that_the_work_stays_linear():
    """Each time half as many more are known: all writes together are of three times the parts at most."""
    known = written = 0
    for parts in range(1_000_000):
        if compact.pays(parts - known, known):
            known, written = parts, written + parts
    assert written <= 3 * 1_000_000
    assert not compact.pays(999, 0)
