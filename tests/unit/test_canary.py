"""Two bundles answer the same records, and what differs is counted by what they were answered from."""

import numpy as np
import pytest
from support.bundles import LABELS, make_bundle, small_bundle
from support.cascades import mixed_records
from support.graphs import write_graph
from support.linear import linear_bundle

from mmray.canary import Canary, check_canary, describe
from mmray.config import CanaryOptions
from mmray.errors import ConfigError
from mmray.predictor import Predictor, open_preprocessor


def answers(bundle, records):
    return Predictor(bundle, provider="cpu", abstain="never")(open_preprocessor(bundle)(records))


def compared(first, second, records, share=1.0):
    predict = Predictor(second, provider="cpu", abstain="never")
    return Canary(predict, open_preprocessor(second), share).compare(records, answers(first, records))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A bundle that decides otherwise."""
    folder = tmp_path_factory.mktemp("other")
    graph = write_graph(folder / "other.onnx", len(LABELS), scale=-1.0)
    return make_bundle(folder / "other", graph=graph, golden_scale=-1.0)


def test_a_bundle_decides_as_itself_in_every_slice():
    counts = compared(small_bundle(), small_bundle(), mixed_records(42))
    slices = describe(counts)["slices"]
    assert slices.pop("all") == {
        "compared": 42,
        "same": 42,
        "share": 1.0,
        "low": pytest.approx(0.025 ** (1 / 42), abs=1e-4),
        "high": 1.0,
        "rejected": 0,
    }
    assert len(slices) == 7
    assert all(found["same"] == found["compared"] == 6 for found in slices.values())
    assert counts["canary"] > 0


def test_another_ones_decisions_are_counted_as_they_are(other):
    records = mixed_records(42)
    both = [answers(bundle, records)["label"].to_pylist() for bundle in (small_bundle(), other)]
    expected = sum(a == b for a, b in zip(*both, strict=True))
    told = describe(compared(small_bundle(), other, records))["slices"]["all"]
    assert (told["same"], told["compared"]) == (expected, 42)
    assert expected < 42


def test_the_same_share_of_the_records_is_drawn_each_time(other):
    first, again = (compared(small_bundle(), other, mixed_records(200), share=0.2) for _ in range(2))
    del first["canary"], again["canary"]
    assert first == again
    assert 20 < sum(first.values()) < 60


def test_rejected_records_are_not_compared(other):
    records = mixed_records(14)
    text = records["text"].to_pylist()
    broken = [b"\xff\xfe\xff" if t and i == 1 else t for i, t in enumerate(text)]
    place = records.column_names.index("text")
    records = records.set_column(place, records.schema.field("text"), [broken])
    rejected = np.sum([e is not None for e in answers(small_bundle(), records)["error"].to_pylist()])
    told = describe(compared(small_bundle(), other, records))["slices"]["all"]
    assert told["compared"] == 14 - rejected


def test_nothing_drawn_is_nothing_counted(other):
    assert compared(small_bundle(), other, mixed_records(4), share=1e-9) == {}
    assert describe({})["slices"] == {}


def test_bundles_of_other_tasks_are_not_compared(tmp_path):
    foreign = make_bundle(tmp_path / "foreign", labels=["one", "two", "three", "four"])
    with pytest.raises(ConfigError, match="no label in common"):
        check_canary(small_bundle(), CanaryOptions(bundle=str(foreign.path)))
    check_canary(small_bundle(), CanaryOptions(bundle=str(linear_bundle(tmp_path / "same").path)))
