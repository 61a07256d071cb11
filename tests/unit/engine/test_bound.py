"""Buffers that stay give what a plain call gives; a session for each shape, up to a number of them."""

from concurrent.futures import ThreadPoolExecutor
from itertools import count

import numpy as np
import pytest
from support.bundles import GOLDEN_ROWS, SPEC, records_table, small_bundle, small_tokenizer

from mmray.batching import blank, fill, pack
from mmray.engine import Engine, Setup
from mmray.engine.bound import Sessions
from mmray.preprocess import Preprocessor
from mmray.shapes import Shape

SHAPE = Shape(rows=8, images=4, texts=8, tokens=16, patches=32)


@pytest.fixture(scope="module")
def engine():
    return Engine(small_bundle().graph("fp32"), provider="cpu")


@pytest.fixture(scope="module")
def tensors():
    return Preprocessor(SPEC, small_tokenizer())(records_table(GOLDEN_ROWS))


def run(bound, tensors, rows):
    """Scores of rows of a table."""
    fill(bound.feeds, tensors, np.asarray(rows), SPEC)
    bound.send()
    bound.compute()
    return bound.fetch()["scores"][: len(rows)]


def test_real_rows_of_a_padded_batch_are_those_of_a_plain_one(engine, tensors):
    bound = engine.bound(blank(SPEC, SHAPE))
    expected = engine(pack(tensors, SPEC))["scores"]
    for rows in ([0, 1, 2, 3], [3], [2, 0], [1, 1, 1]):
        assert np.abs(run(bound, tensors, rows) - expected[rows]).max() < 1e-6


def test_outputs_stay_what_they_were_when_the_next_batch_is_run(engine, tensors):
    bound = engine.bound(blank(SPEC, SHAPE))
    first = run(bound, tensors, [0])
    kept = first.copy()
    run(bound, tensors, [1])
    assert np.array_equal(first, kept)


def test_two_threads_do_not_see_each_others_batches(engine, tensors):
    expected = engine(pack(tensors, SPEC))["scores"]

    def work(row):
        bound = engine.bound(blank(SPEC, SHAPE))
        return max(np.abs(run(bound, tensors, [row]) - expected[[row]]).max() for _ in range(50))

    with ThreadPoolExecutor(2) as threads:
        assert max(threads.map(work, [0, 1, 2, 3])) < 1e-6


def test_it_says_how_much_is_copied(engine):
    feeds = blank(SPEC, SHAPE)
    bound = engine.bound(feeds)
    assert bound.sent_bytes == sum(array.nbytes for array in feeds.values())
    assert bound.fetched_bytes == 9 * 4 * (4 + 4 + 3)


def test_each_shape_has_a_session_and_the_first_one_is_taken_first():
    numbers = count(1)
    sessions = Sessions(0, lambda: next(numbers), most=3)
    assert [sessions(shape) for shape in "abacab"] == [0, 1, 0, 2, 0, 1]
    assert sessions("d") == 2  # c was asked for longest ago
    assert sessions("c") == 0  # then a was
    assert next(numbers) == 3


def test_without_a_loader_all_shapes_share_one():
    sessions = Sessions(7, None, most=3)
    assert {sessions(shape) for shape in "abcd"} == {7}


def test_a_session_that_does_not_load_is_tried_once_and_shared_instead():
    """As where a device has no memory for its weights: records must not become rejects for that."""
    tried = []

    def load():
        tried.append(1)
        raise RuntimeError("Failed to allocate memory")

    sessions = Sessions(0, load, most=4)
    assert [sessions(shape) for shape in "abcab"] == [0, 0, 0, 0, 0]
    assert len(tried) == 1


def test_it_can_be_told_where_each_node_went():
    graph = small_bundle().graph("fp32")
    placed = Engine(graph, provider="cpu", setup=Setup(record_placement=True)).placement()
    assert set(placed) == {"cpu"}
    assert {"MatMul", "ScatterElements"} <= set(placed["cpu"])
