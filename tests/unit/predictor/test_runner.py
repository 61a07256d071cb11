"""Nobody is blamed for what is not his: an engine is known by its golden inputs, a record by itself."""

import numpy as np
import pytest
from support.bundles import SPEC, records_table, small_bundle
from support.cascades import cascaded, mixed_records
from support.faults import LOST, FailingDevice, fail_where, give_nan

from mmray.errors import EngineError
from mmray.predictor import Predictor, open_preprocessor
from mmray.shapes import job_ladder

WORDS = ["cat", "a dog", "red", "a blue dog", "number", "a", "cat dog", "a red cat"]
LADDERS = pytest.mark.parametrize("ladder", [None, job_ladder(SPEC, 4)], ids=["cpu", "padded"])


def texts(*words):
    return open_preprocessor(small_bundle())(records_table([{"text": word.encode()} for word in words]))


def rejected(outcomes):
    return [row for row, fault in enumerate(outcomes["error"].to_pylist()) if fault]


def opened(ladder=None, **options):
    return Predictor(small_bundle(), provider="cpu", ladder=ladder, batch_rows=4, **options)


def answer_until_it_ends(predict):
    for _ in range(3):
        assert not rejected(predict(texts(*WORDS)))


@LADDERS
@pytest.mark.parametrize("last", [0, 1, 2])
def test_a_device_that_is_lost_is_named_and_no_record_is(ladder, last):
    """However many batches it still computes."""
    predict = opened(ladder, device=FailingDevice(lambda run: run > last))
    with pytest.raises(EngineError) as e:
        answer_until_it_ends(predict)
    assert all(said in str(e.value) for said in ("variant fp32", "cpu of ", LOST, "not a record"))


@LADDERS
@pytest.mark.parametrize("last", [0, 1])
def test_an_engine_that_gives_no_numbers_any_more_is_named_and_no_record_is(ladder, last, monkeypatch):
    predict = opened(ladder)
    give_nan(monkeypatch, lambda run: run > last)
    with pytest.raises(EngineError, match="golden inputs fail"):
        answer_until_it_ends(predict)


@LADDERS
@pytest.mark.parametrize("word", ["poison", "nan"])
@pytest.mark.parametrize("last", range(1, 24))
def test_a_device_that_dies_while_a_bad_record_is_looked_for_is_noticed(ladder, word, last):
    """Whenever that is, no other record is blamed; where it is too late for that, the bad one is."""
    predict = opened(ladder, device=FailingDevice(lambda run: run > last))
    try:
        found = predict(texts(*WORDS[:5], word, *WORDS[5:7]))
    except EngineError:
        assert last < 23
    else:
        assert rejected(found) == [5]


@LADDERS
@pytest.mark.parametrize("every", [2, 3, 5])
def test_a_device_that_fails_now_and_then_costs_no_record(ladder, every):
    predict = opened(ladder, device=FailingDevice(lambda run: run % every == 1))
    for _ in range(4):
        try:
            assert not rejected(predict(texts(*WORDS)))
        except EngineError:  # the golden inputs met it, too
            continue


@LADDERS
def test_many_bad_records_cost_four_runs_of_the_golden_inputs_at_most(ladder):
    device = FailingDevice(lambda _: False)
    predict = Predictor(small_bundle(), provider="cpu", ladder=ladder, batch_rows=1, device=device)
    before = device.runs
    found = predict(texts(*["poison"] * 8))
    assert rejected(found) == list(range(8))
    alone, twice_more, golden = (8 if ladder is None else 14), 16, 4
    assert device.runs - before == alone + twice_more + golden


@pytest.mark.parametrize("stage", [1, 2])
@LADDERS
def test_each_stage_of_a_cascade_is_asked_itself(tmp_path, stage, ladder):
    bundle = cascaded(tmp_path / "b", 0.4)
    device = FailingDevice(lambda _: armed)
    armed = False
    predict = Predictor(bundle, variant="cascade", provider="cpu", ladder=ladder, device=device)
    preprocess = open_preprocessor(bundle)
    tensors = preprocess(mixed_records(), predict.later)
    if stage == 2:
        tensors = predict.step(1, tensors).open
    armed = True
    with pytest.raises(EngineError, match=rf"variant cascade, stage {stage}, on cpu of .*{LOST}"):
        predict.step(stage, tensors, preprocess.complete)


def test_a_twin_is_asked_like_the_first(monkeypatch):
    predict = opened().twin()
    give_nan(monkeypatch, lambda _: True)
    with pytest.raises(EngineError, match="golden inputs fail"):
        predict(texts("a cat"))


MEMORY = "[ONNXRuntimeError] : 6 : BFCArena: Failed to allocate memory for requested buffer of size 8"


def test_a_batch_that_is_too_large_for_the_memory_is_halved_and_nobody_is_blamed(monkeypatch):
    predict = opened()
    monkeypatch.undo()
    fail_where(monkeypatch, lambda feeds: len(feeds["present"]) == 4 and feeds["text_row"].size == 4, MEMORY)
    assert not rejected(predict(texts(*WORDS)))


def test_a_machine_without_memory_for_one_record_is_at_fault_not_the_record(monkeypatch):
    """What a record may need is bounded by the spec; another machine may have it."""
    predict = opened()
    fail_where(monkeypatch, lambda feeds: 9 in feeds["input_ids"], MEMORY)  # "number"
    with pytest.raises(EngineError, match=r"cannot run even one record: .*Failed to allocate memory"):
        predict(texts(*WORDS))


def test_our_own_mistakes_are_neither_the_engines_nor_a_records():
    tensors = texts("a cat")
    broken = tensors.set_column(
        tensors.column_names.index("pixels"), "pixels", [np.array([b"too few bytes"], object).tolist()]
    )
    with pytest.raises(ValueError, match="reshape"):
        opened()(broken)
