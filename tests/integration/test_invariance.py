"""What a record is predicted as does not depend on the records beside it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from mmray.predictor import Predictor, open_preprocessor
from mmray.sources import ReadOptions, list_shards, read


@pytest.fixture(scope="module")
def tensors(shards, bundle) -> pa.Table:
    """Records of every mix of missing modalities."""
    preprocess = open_preprocessor(bundle)
    blocks = (read(shard, ReadOptions()) for shard in list_shards([str(shards)]))
    return pa.concat_tables([preprocess(block) for shard in blocks for block in shard])


@pytest.fixture(scope="module")
def alone(tensors, bundle) -> pa.Table:
    return Predictor(bundle, batch_rows=1)(tensors)


@pytest.mark.parametrize("batch_rows", [7, 64])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_batch_size_and_order_change_no_label_and_no_score(tensors, alone, bundle, batch_rows, seed):
    order = np.arange(len(tensors)) if seed is None else np.random.default_rng(seed).permutation(len(tensors))
    batched = Predictor(bundle, batch_rows=batch_rows)(tensors.take(order))
    expected = alone.take(order)
    assert batched["label"].equals(expected["label"])
    scores = [np.array(t["scores"].to_pylist()) for t in (batched, expected)]
    assert np.abs(scores[0] - scores[1]).max() < 1e-4


def test_padding_for_an_absent_modality_counts_for_nothing(tensors, bundle):
    """It belongs to the dummy record."""
    from mmray.batching import pack, padded
    from mmray.engine import Engine

    engine = Engine(bundle.graph("fp32"))
    absent = 0
    for i in range(len(tensors)):
        feeds = padded(tensors.slice(i, 1), bundle.spec)
        absent += int((~feeds["present"][0]).sum())
        expected = engine(pack(tensors.slice(i, 1), bundle.spec))["scores"][0]
        assert np.abs(engine(feeds)["scores"][0] - expected).max() < 1e-5
    assert absent > 50
