"""A device sees few shapes, seldom another one, and no record's answer depends on the padding."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from mmray.preprocess.spec import AudioSpec, ImageSpec, PreprocessSpec, TextSpec
from mmray.schema import TENSORS, error, table
from mmray.shapes import (
    JOB_ROWS,
    Ladder,
    Shape,
    Shaper,
    cpu_rows,
    job_ladder,
    row_bytes,
    server_ladder,
    whole_batches,
)

SPEC = PreprocessSpec(
    image=ImageSpec(height=4, width=4),
    text=TextSpec(max_tokens=128),
    audio=AudioSpec(mel_bins=2, patch_frames=4, patch_hop=2, max_s=1.0),
)
ALL = SPEC.modalities
PICTURE = bytes(48)


@pytest.mark.parametrize(("pixels", "least", "most"), [(4, 64, 64), (72, 32, 64), (224, 8, 16), (4096, 8, 8)])
def test_a_cpu_takes_many_small_records_at_once_and_few_large_ones(pixels, least, most):
    spec = SPEC.model_copy(update={"image": ImageSpec(height=pixels, width=pixels)})
    assert least <= cpu_rows(spec) <= most
    assert cpu_rows(spec) == 8 or cpu_rows(spec) * row_bytes(spec) <= 2_250_000


def clip(patches):
    """A log-mel of so many patches."""
    return np.zeros((4 + 2 * (patches - 1), 2), np.float16).tobytes() if patches else None


def rows(images=(), tokens=(), patches=()):
    """TENSORS of records that have these; 0 tokens or patches for none."""
    count = max(len(images), len(tokens), len(patches))
    made = {
        "row": list(range(count)),
        "pixels": [PICTURE if has else None for has in images] or [None] * count,
        "input_ids": [[1] * n if n else None for n in tokens] or [None] * count,
        "log_mel": [clip(n) for n in patches] or [None] * count,
    }
    return table(made, TENSORS)


def cut(shaper, tensors):
    return shaper(tensors, np.arange(tensors.num_rows))


def test_a_jobs_batches_have_as_many_rows_as_records_of_their_size_allow():
    assert job_ladder(SPEC).rows == (JOB_ROWS,)
    large = PreprocessSpec(image=ImageSpec(height=2048, width=2048))
    assert job_ladder(large).rows == (16,)
    assert job_ladder(SPEC, 100).rows == (100,)


def test_widths_of_texts_end_at_what_the_encoder_has():
    assert Ladder(SPEC, (4,)).tokens == (16, 64, 128)
    assert Ladder(PreprocessSpec(text=TextSpec(max_tokens=77)), (4,)).tokens == (16, 64, 77)
    assert Ladder(PreprocessSpec(text=TextSpec(max_tokens=8)), (4,)).tokens == (8,)


def test_a_server_has_one_shape_for_each_number_of_rows_and_width():
    ladder = server_ladder(SPEC, 64)
    shapes = list(ladder.shapes(ALL))
    assert ladder.rows == (1, 4, 16, 64)
    assert len(shapes) == len(set(shapes)) == 4 * 3
    most = SPEC.audio.max_patches
    assert {(s.rows, s.images, s.texts, s.patches) for s in shapes} == {
        (n, n, n, max(most, 4 * n)) for n in (1, 4, 16, 64)
    }
    assert server_ladder(SPEC, 10).rows == (1, 4, 10)


def test_all_shapes_that_a_server_runs_were_among_those_it_was_warmed_with():
    ladder = server_ladder(SPEC, 16)
    warmed = set(ladder.shapes(ALL))
    shaper = Shaper(ladder, ALL)
    random = np.random.default_rng(0)
    most = SPEC.audio.max_patches
    for _ in range(50):
        count = int(random.integers(1, 40))
        tensors = rows(
            random.integers(0, 2, count), random.integers(0, 129, count), random.integers(0, most, count)
        )
        batches = cut(shaper, tensors)
        assert {batch.shape for batch in batches} <= warmed
        assert sorted(np.concatenate([batch.rows for batch in batches])) == list(range(count))


def test_every_row_is_in_one_batch_that_has_room_for_it():
    random = np.random.default_rng(1)
    shaper = Shaper(job_ladder(SPEC, 16), ALL)
    for count in (1, 15, 16, 17, 100):
        patches = random.integers(0, 9, count)
        images, tokens = random.integers(0, 2, count), random.integers(0, 129, count)
        batches = cut(shaper, rows(images, tokens, patches))
        assert len(batches) == -(-count // 16)
        assert sorted(np.concatenate([batch.rows for batch in batches])) == list(range(count))
        for chosen, shape in batches:
            assert len(chosen) <= shape.rows == 16
            assert images[chosen].sum() <= shape.images
            assert (tokens[chosen] > 0).sum() <= shape.texts
            assert tokens[chosen].max() <= shape.tokens
            assert patches[chosen].sum() <= shape.patches


def test_all_batches_of_a_table_have_one_shape():
    tensors = rows([1, 0] * 20, [5, 100] * 20, [0, 8] * 20)
    assert len({batch.shape for batch in cut(Shaper(job_ladder(SPEC, 8), ALL), tensors)}) == 1


def test_patches_are_dealt_evenly():
    """Long clips side by side in one batch would ask for a larger shape than the mean does."""
    tensors = rows(patches=[8] * 16 + [1] * 48)
    batches = cut(Shaper(job_ladder(SPEC, 16), ALL), tensors)
    assert {batch.shape.patches for batch in batches} == {16 * 4}


def test_rows_with_an_error_are_not_asked_for():
    tensors = table(
        {"row": [0, 1], "input_ids": [[1], None], "error": [None, error("read", "x", "y")]}, TENSORS
    )
    [batch] = Shaper(job_ladder(SPEC, 4), ALL)(tensors, np.array([0]))
    assert batch.rows.tolist() == [0]
    assert cut(Shaper(job_ladder(SPEC, 4), ALL), tensors.slice(0, 0)) == []


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ({"tokens": [60] * 8}, {"tokens": [3] * 8}, True),  # 64 are not far too many for 16
        ({"tokens": [120] * 8}, {"tokens": [3] * 8}, False),  # 128 are
        ({"tokens": [120] * 8}, {"tokens": [3] * 7}, True),  # a tail tells little of what comes
        ({"tokens": [3] * 8}, {"tokens": [17] * 8}, False),  # too few are too few
        ({"images": [1] * 8}, {"tokens": [3] * 8, "images": [0] * 8}, False),  # it has texts now
        (
            {"tokens": [3] * 8, "images": [1] * 8},
            {"tokens": [3] * 8},
            True,
        ),  # a missing modality keeps its places
        ({"patches": [4] * 8}, {"patches": [1] * 8}, True),
        ({"patches": [8] * 8}, {"patches": [1] * 8}, False),
    ],
)
def test_a_shape_stays_unless_it_is_too_small_or_far_too_large(first, second, same):
    shaper = Shaper(job_ladder(SPEC, 8), ALL)
    before, after = (cut(shaper, rows(**sizes))[0].shape for sizes in (first, second))
    assert (before == after) is same


def test_of_a_modality_that_the_graph_does_not_take_nothing_is_in_the_shape():
    [batch] = cut(Shaper(job_ladder(SPEC, 4), ("text",)), rows([1], [3], [4]))
    assert batch.shape == Shape(rows=4, texts=1, tokens=16)
    assert str(batch.shape) == "4 rows, 1 texts x 16"


@pytest.mark.parametrize("sizes", [[1], [5, 5, 5], [64], [3] * 40, [100, 1, 1, 100], []])
def test_tables_are_made_of_whole_batches_and_one_rest(sizes):
    starts = np.cumsum([0, *sizes])
    tables = [pa.table({"n": np.arange(a, b)}) for a, b in pairwise(starts)]
    made = list(whole_batches(iter(tables), 8))
    assert [n for t in made for n in t["n"].to_pylist()] == list(range(sum(sizes)))
    assert all(t.num_rows % 8 == 0 for t in made[:-1])
    assert all(0 < t.num_rows <= 32 for t in made)
    assert list(whole_batches(iter(tables), None)) == tables


def test_tables_are_cut_by_bytes_too(monkeypatch):
    monkeypatch.setattr("mmray.shapes._TABLE_BYTES", 1 << 20)
    heavy = [pa.table({"b": [bytes(100 << 10)] * 40})]
    assert [t.num_rows for t in whole_batches(iter(heavy), 8)] == [8] * 5
    tiny = [pa.table({"b": [bytes(300 << 10)]})] * 9  # a batch of eight would be too large
    assert [t.num_rows for t in whole_batches(iter(tiny), 8)] == [3, 3, 3]
