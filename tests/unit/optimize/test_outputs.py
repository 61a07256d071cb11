"""Held-out records come as the job reads them, and a graph is asked about each with every subset it has."""

import json

import numpy as np
import onnx
import pytest
from support.bundles import LABELS, make_bundle
from support.linear import deaf, linear_bundle, write_labelled
from support.tars import write_shard

from mmray.engine import Engine
from mmray.errors import InputError
from mmray.optimize.outputs import labelled_tensors, run_outputs
from mmray.predictor import Predictor, open_preprocessor
from mmray.sources import ReadOptions, list_shards, read


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return linear_bundle(tmp_path_factory.mktemp("linear") / "bundle")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A test shard of 120 records and a training shard of 40."""
    folder = write_labelled(tmp_path_factory.mktemp("held out"))
    return write_labelled(folder, rows=40, split="train")


def take(folder, bundle, rows=1000, without="train"):
    return labelled_tensors([str(folder)], bundle, rows=rows, without=without)


def run(bundle, records, batch_rows=16):
    return run_outputs(Engine(bundle.graph("fp32"), provider="cpu"), records, batch_rows=batch_rows)


def test_records_of_the_other_split_are_left_out(folder, bundle):
    held_out, calibration = take(folder, bundle), take(folder, bundle, without="test")
    assert (len(held_out), len(calibration)) == (120, 40)
    assert not held_out.addresses & calibration.addresses


def test_labels_and_groups_are_those_of_the_json_member(folder, bundle):
    records = take(folder, bundle)
    metas = [json.loads(meta) for meta in records.tensors["meta"].to_pylist()]
    assert [LABELS[k] for k in records.labels] == [meta["label"] for meta in metas]
    assert list(records.groups) == [meta["caption_group"] for meta in metas]
    assert len(set(records.groups)) == 80


@pytest.mark.parametrize("meta", [None, b"", b"not json", b"[1]", b'{"label": "dragon"}', b'{"label": 3}'])
def test_a_record_without_a_label_that_the_bundle_knows_is_kept_unlabelled(tmp_path, bundle, meta):
    fields = [{"txt": b"a cat"} | ({} if meta is None else {"json": meta}) for _ in range(2)]
    write_shard(tmp_path / "s.tar", [(f"r{i}", each) for i, each in enumerate(fields)])
    records = take(tmp_path, bundle)
    assert list(records.labels) == [-1, -1]
    assert len(set(records.groups)) == 2, "each is a group by itself"


def test_every_shard_gives_its_share_from_its_beginning(tmp_path, bundle):
    for name in "abc":
        records = [(f"{name}{i}", {"txt": b"a cat"}) for i in range(30)]
        write_shard(tmp_path / f"{name}.tar", records)
    records = take(tmp_path, bundle, rows=50)
    keys = records.tensors["key"].to_pylist()
    assert [keys.count(f"{name}0") for name in "abc"] == [1, 1, 1]
    assert [sum(key[0] == name for key in keys) for name in "abc"] == [17, 17, 16]


def test_records_that_cannot_be_used_are_left_out(tmp_path, bundle):
    write_shard(
        tmp_path / "s.tar", [("a", {"txt": b"a cat"}), ("b", {"png": b"no picture"}), ("c", {"json": b"{}"})]
    )
    assert take(tmp_path, bundle).tensors["key"].to_pylist() == ["a"]


def test_no_usable_record_is_an_error_that_names_the_input(tmp_path, bundle):
    write_shard(tmp_path / "s.tar", [("a", {"png": b"no picture"})])
    with pytest.raises(InputError, match=r"no usable record there whose split is not 'train'"):
        take(tmp_path, bundle)


def test_rows_are_all_subsets_of_what_each_record_has(folder, bundle):
    records = take(folder, bundle)
    outputs = run(bundle, records)
    counts = records.present.sum(axis=1)
    assert len(outputs.scores) == (2**counts - 1).sum()
    assert outputs.whole.sum() == len(records)
    assert outputs.present.any(axis=1).all()
    assert sorted(np.unique(outputs.present[outputs.whole], axis=0).tolist()) == sorted(
        np.unique(records.present, axis=0).tolist()
    )


@pytest.mark.parametrize("modalities", [("image",), ("text", "audio"), ("image", "text", "audio")])
def test_scores_of_a_subset_are_those_of_a_run_with_only_these_modalities(folder, bundle, modalities):
    """Masking must be what the job does when it is told to use fewer modalities."""
    records = take(folder, bundle)
    outputs = run(bundle, records, batch_rows=7)
    chosen = (outputs.present == [m in modalities for m in outputs.modalities]).all(axis=1)

    expected = []
    predictor, preprocess = (
        Predictor(bundle, provider="cpu"),
        open_preprocessor(bundle, modalities=modalities),
    )
    for block in read(list_shards([str(folder)])[0], ReadOptions()):
        has = np.all([block[m].is_valid().to_numpy() for m in modalities], axis=0)
        expected += predictor(preprocess(block.filter(has)))["scores"].to_pylist()
    found = outputs.scores[chosen]
    assert len(found) == len(expected) > 30
    apart = np.abs(found[:, None] - np.array(expected)[None]).max(axis=2)
    assert max(apart.min(axis=0).max(), apart.min(axis=1).max()) < 1e-5


def test_a_model_without_labels_decides_which_other_record_is_most_like_a_record(folder, bundle, tmp_path):
    """A record is like itself, with or without some of its modalities; that would say nothing."""
    bare = make_bundle(
        tmp_path / "bare", graph=bundle.graph("fp32"), labels=(), features=24, golden_outputs={}
    )
    outputs = run(bare, take(folder, bare))
    anchors = np.unique(np.linspace(0, len(outputs.scores) - 1, 64).astype(int))
    assert (outputs.scores[anchors, np.arange(64)] == 0).all()
    np.testing.assert_allclose(outputs.scores.sum(axis=1), 1, atol=1e-5)
    labelled = run(bundle, take(folder, bundle))
    same_label = labelled.labels[anchors][outputs.scores.argmax(axis=1)] == labelled.labels
    assert same_label.mean() > 0.8


def test_rows_of_two_graphs_are_paired(folder, bundle, tmp_path):
    """A graph that takes no notice of audio differs just where audio is."""
    onnx.save(deaf(onnx.load(bundle.graph("fp32"))), tmp_path / "deaf.onnx")
    records = take(folder, bundle)
    outputs, others = (
        run_outputs(Engine(graph, provider="cpu"), records, batch_rows=16)
        for graph in (bundle.graph("fp32"), tmp_path / "deaf.onnx")
    )
    same, heard = (outputs.scores == others.scores).all(axis=1), outputs.present[:, 2]
    assert same[~heard].all()
    assert not same[heard].any()
    assert (outputs.groups == others.groups).all()
