"""Before anything runs: what is there, and whether an earlier run may be continued with it."""

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.bundles import LABELS, latin_bundle, make_bundle, small_bundle
from support.media import image_bytes
from support.runs import make_config, run_here
from support.tars import good_records, tar_bytes, write_shard

from mmray.bundle import Bundle
from mmray.errors import BundleError, ConfigError, InputError, OutputError
from mmray.pipeline.ledger import Ledger
from mmray.pipeline.survey import output_columns, survey
from mmray.unread import FOREIGN_SCRIPT, masked


@pytest.fixture
def data(tmp_path):
    for name in ("a", "b", "c", "d"):
        write_shard(tmp_path / f"in/{name}.tar", good_records(5))
    return tmp_path / "in"


def look(data, **settings):
    return survey(make_config(data, data.parent / "out", **settings))


def plan_of(found):
    """What plan.json of a run would hold."""
    return {"identity": found.identity(), "shards": [shard.to_list() for shard in found.shards]}


def test_it_counts_shards_bytes_and_modalities(data):
    found = look(data)
    assert [shard.name for shard in found.shards] == ["a.tar", "b.tar", "c.tar", "d.tar"]
    assert found.input_bytes == sum(file.stat().st_size for file in data.iterdir())
    assert found.census.records == 20  # the first block of each shard
    assert found.census.modalities == {"image": 0.6, "text": 0.8, "audio": 0.4}
    assert found.expected_rows == 20  # exact: each shard is one block


def test_a_small_table_is_not_estimated_by_the_bytes_of_its_cells(data):
    """A file of Parquet is mostly its own footer, where the cells are small."""
    rows = {"image": [image_bytes(colour="red")] * 3, "text": ["a cat"] * 3}
    pq.write_table(pa.table(rows | {"padding": [str(i) * 5_000 for i in range(3)]}), data / "three.parquet")
    assert look(data / "three.parquet").expected_rows == 3


def test_it_writes_nothing(data):
    look(data)
    assert {path.name for path in data.parent.iterdir()} == {"in"}


def test_places_are_made_absolute_for_workers_elsewhere(data, monkeypatch):
    monkeypatch.chdir(data.parent)
    found = survey(make_config("in", "out"))
    assert found.config.output == str(data.parent / "out")
    assert all(shard.url.startswith(str(data)) for shard in found.shards)


def test_unreadable_records_are_counted_as_such(data):
    (data / "a.tar").write_bytes(b"")
    (data / "b.tar").write_bytes(tar_bytes([("x.json", b"{}")]))
    assert look(data).census.sets["unreadable"] == 1
    assert look(data).census.sets["nothing"] == 1


def test_a_shard_without_bytes_does_not_divide_by_zero(data):
    for path in data.iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="4 unreadable"):
        look(data)


def test_input_without_any_usable_modality_is_refused(data):
    with pytest.raises(InputError, match="check `extensions` in the config") as e:
        look(data, extensions={"image": ["tiff"], "text": ["md"], "audio": ["aac"]})
    assert "none of 20 sampled records has image or text or audio" in str(e.value)
    assert "not read: .txt members as a.tar: good-000.txt, .jpg members as" in str(e.value)


def test_a_modality_that_is_asked_for_must_be_there(data):
    for path in data.iterdir():
        write_shard(path, [("a", {"txt": b"a cat"})])
    with pytest.raises(InputError, match="has audio"):
        look(data, modalities=["audio"])
    look(data, modalities=["text", "audio"])


def test_a_modality_that_the_model_does_not_take_is_refused(data, tmp_path):
    spec = small_bundle().spec.model_copy(update={"audio": None})
    bundle = make_bundle(tmp_path / "no-audio", spec=spec, golden_outputs={})
    with pytest.raises(ConfigError, match="takes image, text, not audio"):
        look(data, modalities=["audio"], bundle=str(bundle.path))


def test_an_unknown_variant_is_refused(data):
    with pytest.raises(BundleError, match="no variant 'int4'"):
        look(data, variant="int4")


@pytest.mark.parametrize(
    "settings",
    [{"batch_rows": 3}, {"actors": 2}, {"part_rows": 7}, {"provider": "auto"}, {"topology": "split"}],
)
def test_how_a_run_is_done_may_change_when_it_is_resumed(data, settings):
    look(data, **settings).check_resumable(plan_of(look(data)))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"modalities": ["text"]}, "modalities"),
        ({"scores": False}, "scores"),
        ({"features": True}, "features"),
        ({"carry": ["number"]}, "carry"),
        ({"on_damaged": "mask"}, "on_damaged"),
        ({"limits": {"audio_s": 5}}, "limits"),
        ({"extensions": {"image": ["png"]}}, "extensions"),
        ({"variant": "fp32"}, "variant"),
    ],
)
def test_what_shapes_the_output_may_not(data, settings, named):
    with pytest.raises(OutputError, match=f"was made with {named}=.*now it is") as e:
        look(data, **settings).check_resumable(plan_of(look(data)))
    assert "choose another --output" in str(e.value)
    assert "\n" not in str(e.value)


def test_nor_may_the_model(data, tmp_path):
    other = make_bundle(tmp_path / "other", labels=LABELS[::-1])
    with pytest.raises(OutputError, match="was made with bundle="):
        look(data, bundle=str(other.path)).check_resumable(plan_of(look(data)))


def test_a_bundle_that_moved_is_the_same_bundle(data, tmp_path):
    moved = tmp_path / "moved"
    moved.symlink_to(small_bundle().path)
    assert Bundle.open(moved).digest == small_bundle().digest
    look(data, bundle=str(moved)).check_resumable(plan_of(look(data)))


def test_shards_that_are_gone_are_named(data):
    earlier = plan_of(look(data))
    (data / "b.tar").unlink()
    for accept in (False, True):
        with pytest.raises(OutputError, match=r"1 shard of this run missing from the input \(b\.tar\)"):
            look(data).check_resumable(earlier, accept_changes=accept)


@pytest.mark.parametrize(
    ("name", "message"), [("e", "1 new shard, 0 of another size"), ("b", "0 new shards, 1 of another size")]
)
def test_shards_that_came_or_changed_are_named_until_accepted(data, name, message):
    earlier = plan_of(look(data))
    write_shard(data / f"{name}.tar", good_records(60))
    with pytest.raises(OutputError, match=f"{message}.*{name}\\.tar.*--accept-changes"):
        look(data).check_resumable(earlier)
    look(data).check_resumable(earlier, accept_changes=True)


def rewrite(data, name="b", word="other"):
    """Another content of the same size."""
    path = data / f"{name}.tar"
    size = path.stat().st_size
    write_shard(path, good_records(5, prefix=word[:4]))
    assert path.stat().st_size == size


def test_a_shard_that_was_rewritten_at_its_size_is_named_until_accepted(data):
    first = look(data)
    earlier = plan_of(first)
    rewrite(data)
    with pytest.raises(
        OutputError, match=r"1 with other content \(b.tar: another content\).*--accept-changes"
    ):
        look(data).check_resumable(earlier)
    now = look(data)
    now.check_resumable(earlier, accept_changes=True)
    assert {shard.id for shard in now.shards} == {shard.id for shard in first.shards}
    kept = {shard.name for shard in now.shards if shard.id in now.unchanged(earlier)}
    assert kept == {"a.tar", "c.tar", "d.tar"}


def test_copies_without_times_are_resumed_when_their_content_alone_is_to_count(data, tmp_path):
    earlier = plan_of(look(data))
    shutil.copytree(data, tmp_path / "copy/in", copy_function=shutil.copyfile)
    copy = look(tmp_path / "copy/in")
    with pytest.raises(
        OutputError, match=r"4 with other content .*only copied or touched, resume with --moved"
    ):
        copy.check_resumable(earlier)
    copy.check_resumable(earlier, moved=True)
    assert len(copy.unchanged(earlier, moved=True)) == 4
    rewrite(tmp_path / "copy/in")
    with pytest.raises(OutputError, match=r"1 with other content \(b.tar: another content\)"):
        look(tmp_path / "copy/in").check_resumable(earlier, moved=True)


def test_a_plan_of_an_earlier_version_is_compared_by_size_alone(data):
    plan = plan_of(look(data))
    rewrite(data)
    plan["shards"] = [values[:4] for values in plan["shards"]]
    look(data).check_resumable(plan)


def test_a_survey_takes_states_from_the_plan_of_files_that_nobody_touched(data):
    found = look(data)
    again = survey(make_config(data, data.parent / "out"), plan_of(found))
    assert again.shards == found.shards


def test_further_names_of_a_file_are_said(data):
    (data / "latest.tar").symlink_to("a.tar")
    found = look(data)
    assert len(found.shards) == 4
    assert "latest.tar is " in found.notes[0]


@pytest.mark.parametrize("output", ["in/out", "in", "in/../in/x"])
def test_an_output_in_the_input_is_refused_before_anything_is_written(data, output):
    with pytest.raises(OutputError, match="inside one another"):
        survey(make_config(data, data.parent / output))
    assert len(list(data.iterdir())) == 4


def test_a_changed_config_is_told_before_a_changed_input(data):
    earlier = plan_of(look(data))
    (data / "b.tar").unlink()
    with pytest.raises(OutputError, match="scores"):
        look(data, scores=False).check_resumable(earlier)


def test_columns_follow_the_config(data):
    bundle = small_bundle()
    full = output_columns(make_config(data, "o", features=True, carry=["number"]), bundle)
    assert (full.classes, full.features, full.carry) == (4, 3, ("number",))
    none = output_columns(make_config(data, "o", scores=False), bundle)
    assert (none.classes, none.features, none.carry) == (0, 0, ())


def odd_shard(data):
    """A shard with things that nothing is used for, among files that are no shards."""
    members = [("0.jpg", b"x"), ("0.cls", b"7"), ("0.tga", b"x"), ("README", b"x"), ("1.txt", b"a dog")]
    (data / "0.tar").write_bytes(tar_bytes(members))
    for name in ("a.json", "b.json", "notes.md", "LICENSE"):
        (data / name).write_bytes(b"{}")


def test_what_is_not_read_is_counted_by_kind_with_an_example(data):
    odd_shard(data)
    found = look(data)
    counts = {kind: tuple(count) for kind, count in found.census.unread.counts.items()}
    assert counts == {
        ".cls members": (1, "0.tar: 0.cls"),
        ".tga members": (1, "0.tar: 0.tga"),
        "members without an extension": (1, "0.tar: README"),
    }
    files = {kind: count.number for kind, count in found.unread_files.counts.items()}
    assert files == {
        ".json files of no record": 2,
        ".md files of no record": 1,
        "files without a suffix of no record": 1,
    }


def test_what_is_not_read_may_end_a_run_before_it_begins(data):
    odd_shard(data)
    with pytest.raises(InputError, match=r"0\.tar.*not read.*on_unread=warn"):
        look(data, on_unread="fail")


def test_a_field_to_carry_must_be_somewhere(data):
    odd_shard(data)
    assert look(data, carry=["cls", "number"]).census.fields == {"cls", "number"}
    with pytest.raises(ConfigError, match=r"carry: 'numbre' is in none of .*did you mean 'number'"):
        look(data, carry=["numbre"])


def test_empty_shards_are_no_records(data):
    (data / "0.tar").write_bytes(tar_bytes([]))
    assert look(data).census.sets.keys().isdisjoint({"unreadable", "nothing"})
    for path in data.glob("[a-d].tar"):
        path.unlink()
    with pytest.raises(InputError, match="has no records"):
        look(data)


@pytest.mark.parametrize("then", ["keep", "mask"])
def test_texts_that_the_model_does_not_read_are_counted_before_the_run_and_by_it(tmp_path, then):
    members = [("0.png", image_bytes()), ("0.txt", "Красный кот".encode()), ("1.txt", b"a red cat")]
    members += [("2.txt", "γάτα".encode()), ("3.png", image_bytes())]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.tar").write_bytes(tar_bytes(members))
    settings = {"bundle": str(latin_bundle().path), "foreign_text": then, "on_unread": "fail"}
    config = make_config(tmp_path / "in", tmp_path / "out", **settings)
    kind = FOREIGN_SCRIPT if then == "keep" else masked(FOREIGN_SCRIPT)
    assert survey(config).census.unread.counts == {kind: (2, "a.tar: 0")}
    out, _ = run_here(config)
    ledger = Ledger.load(out)
    assert ledger.unread.counts == {kind: (2, "a.tar: 0")}
    kept = {"image+text": 1, "text": 2, "image": 1}
    assert dict(ledger.modalities) == (kept if then == "keep" else {"image": 2, "text": 1})
    assert dict(ledger.rejects) == ({} if then == "keep" else {"preprocess/text-foreign": 1})
    other = config.model_copy(update={"foreign_text": "mask" if then == "keep" else "keep"})
    with pytest.raises(OutputError, match="foreign_text"):
        survey(other).check_resumable(out.read_plan())
