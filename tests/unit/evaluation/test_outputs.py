"""Held-out records come as the job reads them, and a graph is asked about each with every subset it has."""

import numpy as np
import onnx
import pytest
from support.bundles import make_bundle
from support.linear import deaf, linear_bundle, write_labelled

from mmray.engine import Engine
from mmray.evaluation.outputs import run_outputs, whole_outputs
from mmray.evaluation.records import Records
from mmray.evaluation.splits import SPLITS
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


def take(folder, bundle, split="test"):
    return Records([str(folder)], bundle, dict.fromkeys(SPLITS, 1000)).load(split)


def run(bundle, records, batch_rows=16):
    return run_outputs(Engine(bundle.graph("fp32"), provider="cpu"), records, batch_rows=batch_rows)


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


def test_records_as_they_are_with_some_modalities_alone_are_paired_with_those_of_all(folder, bundle):
    records, engine = take(folder, bundle), Engine(bundle.graph("fp32"), provider="cpu")
    whole = whole_outputs(engine, records, batch_rows=16)
    alone = whole_outputs(engine, records, batch_rows=16, seen=("image",))
    assert len(whole.scores) == len(records)
    assert whole.whole.all()
    assert (whole.present == alone.present).all()
    assert (whole.labels == alone.labels).all()
    same = (whole.present == [True, False, False]).all(axis=1)
    np.testing.assert_allclose(whole.scores[same], alone.scores[same], atol=1e-6)
    outputs = run(bundle, records)
    masked = outputs.scores[(outputs.present == [True, False, False]).all(axis=1)]
    assert (
        np.abs(np.sort(alone.scores[whole.present[:, 0]].max(axis=1)) - np.sort(masked.max(axis=1))).max()
        < 1e-5
    )
