"""A bundle is whole or refused; whoever alters it is found out; nothing in it leads outside."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from support.bundles import LABELS, SPEC, make_bundle, same_feeds, small_bundle, write_tokenizer
from support.graphs import write_graph

from mmray.bundle import Bundle, NewVariant, Variant, extend_bundle, write_bundle
from mmray.errors import BundleError


@pytest.fixture
def copy(tmp_path):
    """A bundle that a test may alter."""
    shutil.copytree(small_bundle().path, tmp_path / "copy")
    return tmp_path / "copy"


def edit_manifest(path, **changes):
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | changes))


_NEW_THREADS = """
import os, sys
import pyarrow as pa, pyarrow.parquet as pq
from mmray.bundle import Bundle
from mmray.pipeline.sink import read_parquet
from mmray.storage import Location

bundle = Bundle.open(sys.argv[1])
pq.write_table(pa.table({"row": range(9)}), sys.argv[2])
before = set(os.listdir("/proc/self/task"))
assert bundle.golden_records().num_rows and read_parquet(Location.parse(sys.argv[2])).num_rows == 9
print(len(set(os.listdir("/proc/self/task")) - before))
"""


def test_parquet_is_read_without_a_thread_that_could_outlive_python(tmp_path):
    """One of Arrow's that let go of Python's bytes while Python exited ended `bundle inspect` by SIGABRT."""
    command = [sys.executable, "-c", _NEW_THREADS, str(small_bundle().path), str(tmp_path / "a.parquet")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "0\n"


def test_what_is_written_is_what_is_opened():
    bundle = Bundle.open(small_bundle().path)
    assert bundle == small_bundle()
    assert bundle.labels == list(LABELS)
    assert bundle.spec == SPEC
    assert bundle.manifest.features == 3
    assert bundle.manifest.variants == {"fp32": Variant(file="variants/fp32.onnx")}
    assert bundle.manifest.origin == {"made_by": "tests"}
    assert bundle.manifest.sources[0].licence == "CC0-1.0"
    assert bundle.scorecard == {"subsets": {}}
    assert bundle.graph("fp32").is_file()
    assert bundle.tokenizer.is_file()
    bundle.verify()


def test_every_file_but_the_manifest_has_its_checksum():
    bundle = small_bundle()
    there = {str(file.relative_to(bundle.path)) for file in bundle.path.rglob("*") if file.is_file()}
    assert set(bundle.manifest.files) == there - {"manifest.json"}
    assert len(there) == 6


def test_golden_arrays_come_back_as_they_went_in(tmp_path):
    inputs = {"present": np.array([[True]]), "input_ids": np.array([[1, 2]], np.int32)}
    outputs = {"scores": np.array([[0.25, 0.75]], np.float32)}
    bundle = make_bundle(tmp_path / "b", labels="ab", golden_inputs=inputs, golden_outputs=outputs)
    found = bundle.golden()
    assert same_feeds(found[0], inputs)
    assert same_feeds(found[1], outputs)


def test_the_digest_changes_with_the_content_and_not_with_the_place(copy, tmp_path):
    assert Bundle.open(copy).digest == small_bundle().digest
    assert make_bundle(tmp_path / "other", name="other").digest != small_bundle().digest


@pytest.mark.parametrize("name", ["variants/fp32.onnx", "tokenizer.json", "golden.npz", "scorecard.json"])
def test_an_altered_file_is_named(copy, name):
    """One flipped bit, the size unchanged."""
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(BundleError, match="differs from its checksum") as e:
        Bundle.open(copy).verify()
    assert name in str(e.value)


@pytest.mark.parametrize("name", ["variants/fp32.onnx", "tokenizer.json", "golden.npz", "scorecard.json"])
def test_a_missing_file_is_named_when_the_bundle_is_opened(copy, name):
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        Bundle.open(copy)


@pytest.mark.parametrize("place", ["nowhere", "."])
def test_a_place_without_a_bundle_is_refused(tmp_path, place):
    with pytest.raises(BundleError, match="not a bundle"):
        Bundle.open(tmp_path / place)


@pytest.mark.parametrize(
    "outside", ["../outside.onnx", "/etc/passwd", "variants/../../outside.onnx", "link/outside.onnx"]
)
def test_a_name_that_leads_outside_the_bundle_is_refused(copy, outside):
    (copy.parent / "outside.onnx").write_bytes(b"")
    (copy / "link").symlink_to(copy.parent)
    edit_manifest(copy, files=Bundle.open(copy).manifest.files | {outside: "0" * 64})
    with pytest.raises(BundleError, match="outside the bundle") as e:
        Bundle.open(copy)
    assert outside in str(e.value)


def test_a_variant_without_checksum_is_refused(copy):
    """Else its file could be any file."""
    edit_manifest(copy, variants={"fp32": {"file": "../outside.onnx"}})
    with pytest.raises(BundleError, match=r"outside\.onnx has no checksum"):
        Bundle.open(copy)


@pytest.mark.parametrize(
    "manifest", ["", "[]", "{}", "not json", '{"format": 1, "labels": 3}', "\x00\x01", '{"format": "new"}']
)
def test_a_manifest_that_is_none_is_refused(copy, manifest):
    (copy / "manifest.json").write_text(manifest)
    with pytest.raises(BundleError, match=r"manifest\.json: not a manifest of format 1"):
        Bundle.open(copy)


def test_a_bundle_of_another_format_is_refused(copy):
    edit_manifest(copy, format=2)
    with pytest.raises(BundleError, match="bundle of format 2; this mmray reads 1"):
        Bundle.open(copy)


def test_a_key_that_is_unknown_is_refused(copy):
    """It may change what the model does, and we would not know."""
    edit_manifest(copy, cascade=["fp32"])
    with pytest.raises(BundleError, match="cascade"):
        Bundle.open(copy)


def test_an_unknown_variant_is_refused_with_those_that_there_are():
    with pytest.raises(BundleError, match="no variant 'int4'; it has: fp32"):
        small_bundle().graph("int4")
    with pytest.raises(BundleError, match="no variant 'int4'"):
        small_bundle().check_variant("int4")


def pickled_golden(path):
    np.savez(path, **{"in/present": np.array([{"an": "object"}], dtype=object)})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not a zip"),
        lambda path: path.write_bytes(path.read_bytes()[:200]),
        lambda path: np.savez(path, stray=np.zeros(1)),
        pickled_golden,
    ],
    ids=["empty", "noise", "cut", "foreign", "pickled"],
)
def test_golden_arrays_that_cannot_be_read_are_a_fault_of_the_bundle(copy, spoil):
    """Also what would have to be unpickled, which could run anything."""
    spoil(copy / "golden.npz")
    with pytest.raises(BundleError, match=r"golden\.npz"):
        Bundle.open(copy).golden()


def test_writing_replaces_the_bundle_that_is_there(tmp_path):
    old = make_bundle(tmp_path / "b", name="old")
    new = make_bundle(tmp_path / "b", name="new")
    assert Bundle.open(tmp_path / "b").manifest.name == "new"
    assert old.digest != new.digest


def test_writing_that_fails_leaves_the_old_bundle_and_no_litter(tmp_path):
    old = make_bundle(tmp_path / "b")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        make_bundle(tmp_path / "b", tokenizer=tmp_path / "nowhere.json", graph=old.graph("fp32"))
    assert sorted(tmp_path.iterdir()) == before
    Bundle.open(tmp_path / "b").verify()


def test_writing_refuses_a_folder_that_is_no_bundle(tmp_path):
    """It would be deleted."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_bytes(b"irreplaceable")
    with pytest.raises(BundleError, match="not a bundle"):
        make_bundle(tmp_path / "photos")
    assert (tmp_path / "photos/cat.jpg").read_bytes() == b"irreplaceable"
    with pytest.raises(BundleError, match="not a bundle"):
        make_bundle(tmp_path / "photos/cat.jpg")
    (tmp_path / "empty").mkdir()
    make_bundle(tmp_path / "empty")


def test_a_bundle_without_text_needs_no_tokenizer(tmp_path):
    bundle = write_bundle(
        tmp_path / "b",
        name="image only",
        graph=write_graph(tmp_path / "g.onnx"),
        spec=SPEC.model_copy(update={"text": None}),
        labels=LABELS,
        features=3,
        tokenizer=None,
        golden_inputs={},
        golden_outputs={},
        scorecard={},
    )
    assert bundle.tokenizer is None
    assert bundle.spec.modalities == ("image", "audio")


def test_the_source_files_are_copied_not_linked(tmp_path):
    bundle = make_bundle(tmp_path / "b")
    write_tokenizer(tmp_path / "b-tokenizer.json").write_text("altered later")
    bundle.verify()


def score(passed, reason="", **figures):
    return {"passed": passed, "reason": reason, **figures}


def extended(folder, parent, verdicts, **entry):
    """A bundle with a variant for each verdict; that of the name "lost" has no file."""
    graph = write_graph(folder.parent / "another.onnx", len(LABELS), scale=1.01)
    outputs = {"scores": np.array([[0.25, 0.75]], np.float32)}
    added = {
        name: NewVariant(Variant(file=f"variants/{name}.onnx", parent="fp32", **entry), graph, outputs)
        for name in verdicts
        if name != "lost"
    }
    scorecard = {"variants": verdicts}
    return extend_bundle(folder, parent, added, scorecard=scorecard, origin={"optimize": "{}"})


def test_an_extended_bundle_has_all_of_its_parent_and_the_new_variants(tmp_path):
    parent = small_bundle()
    bundle = extended(tmp_path / "b", parent, {"int8": score(True)}, precision="int8", how={"step": "int8"})
    bundle.verify()
    manifest, old = bundle.manifest, parent.manifest
    assert manifest.parents == {parent.digest: "tiny"}
    assert manifest.origin == {"made_by": "tests", "optimize": "{}"}
    assert list(manifest.variants) == ["fp32", "int8"]
    assert (manifest.variants["int8"].precision, manifest.variants["int8"].parent) == ("int8", "fp32")
    for name in ("name", "labels", "features", "preprocessing", "sources"):
        assert getattr(manifest, name) == getattr(old, name)
    for name in ("variants/fp32.onnx", "tokenizer.json"):
        assert manifest.files[name] == old.files[name]
    assert set(manifest.files) == set(old.files) | {"variants/int8.onnx"}


def test_each_variant_has_golden_outputs_of_its_own_for_the_same_inputs(tmp_path):
    parent = small_bundle()
    bundle = extended(tmp_path / "b", parent, {"int8": score(True)})
    again = extended(tmp_path / "c", bundle, {"fp16": score(True)})
    for opened, names in ((bundle, ["int8"]), (again, ["int8", "fp16"])):
        assert same_feeds(opened.golden()[0], parent.golden()[0])
        assert same_feeds(opened.golden()[1], parent.golden()[1])
        for name in names:
            inputs, outputs = opened.golden(name)
            assert same_feeds(inputs, parent.golden()[0])
            assert same_feeds(outputs, {"scores": np.array([[0.25, 0.75]], np.float32)})


def test_a_new_variant_replaces_the_parents_of_the_same_name(tmp_path):
    bundle = extended(tmp_path / "b", small_bundle(), {"int8": score(True)})
    again = extended(tmp_path / "c", bundle, {"int8": score(True)}, how={"step": "another"})
    again.verify()
    assert again.manifest.variants["int8"].how == {"step": "another"}
    assert set(again.manifest.files) == set(bundle.manifest.files)


def test_extending_never_replaces_the_parent(copy):
    parent = Bundle.open(copy)
    with pytest.raises(BundleError, match="is the bundle to start from"):
        extended(copy, parent, {"int8": score(True)})
    parent.verify()


def test_a_variant_that_failed_is_refused_with_its_reason(tmp_path):
    verdicts = {
        "int8": score(False, "audio: decisions agree on 3 of 90 records"),
        "lost": score(False, "ruined"),
    }
    bundle = extended(tmp_path / "b", small_bundle(), verdicts)
    assert bundle.passing() == ["fp32"]
    with pytest.raises(BundleError, match=r"'int8' failed its gate: audio: .* 3 of 90 .*; choose from: fp32"):
        bundle.check_variant("int8")
    with pytest.raises(BundleError, match="'lost' failed its gate: ruined"):
        bundle.check_variant("lost")


def test_a_variant_that_nobody_judged_is_refused(tmp_path):
    bundle = extended(tmp_path / "b", small_bundle(), {"int8": {}})
    assert bundle.passing() == ["fp32"]
    with pytest.raises(BundleError, match="'int8' was never judged"):
        bundle.check_variant("int8")


def test_a_variant_that_passed_may_be_chosen(tmp_path):
    bundle = extended(tmp_path / "b", small_bundle(), {"int8": score(True)})
    assert bundle.passing() == ["fp32", "int8"]
    bundle.check_variant("int8")
