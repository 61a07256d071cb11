"""What is counted for the display and the summary."""

from itertools import pairwise

from support.drift import by_hand, counts

from mmray.coverage import Missing
from mmray.pipeline.meter import Meter
from mmray.pipeline.snapshot import START, Doing, Message, Place


def test_counts_of_all_workers_add_up():
    meter = Meter()
    meter.add({"rows": 3, "rejects": 1, "model": 0.5})
    meter.add({"rows": 5, "rejects": 0, "image": 0.25, "model": 0.25})
    snapshot = meter.read()
    assert (snapshot.rows, snapshot.rejects, snapshot.first_rows) == (8, 1, 3)
    assert (snapshot.seconds["model"], snapshot.seconds["image"], snapshot.seconds["write"]) == (
        0.75,
        0.25,
        0,
    )
    assert 0 < snapshot.first <= snapshot.last


def test_seconds_alone_do_not_start_the_clock():
    meter = Meter()
    meter.add({"image": 1.0})
    assert meter.read().first == 0


def test_a_shift_is_called_where_early_answers_surely_differ_too_often():
    meter = Meter(disagreement=0.05)
    meter.add({"left 1": 300, "left 2": 100, "shadowed": 20, "agreed": 18})
    assert meter.read().shift == ""
    assert meter.read().left == {1: 300, 2: 100}
    meter.add({"left 1": 300, "shadowed": 20, "agreed": 2})
    assert "20 of 40 compared early answers differ" in meter.read().shift


def test_records_that_are_unlike_the_reference_are_a_reason_to_stop_early_answers():
    meter = Meter(disagreement=0.05, reference=by_hand())
    meter.add({}, seen=counts((96, 32, 0), (32, 32, 32, 32)))
    assert (meter.shift(), meter.read().drift.warning) == ("", "")
    meter.add({}, seen=counts((0, 128, 0), (32, 32, 32, 32)))
    assert meter.shift() == meter.read().drift.warning != ""
    assert meter.read().shift == ""  # no early answer was wrong
    assert meter.read().drift.records == 256


def test_once_early_answers_are_wrong_records_are_compared_no_more():
    """None leaves early any more, so later stages see other records than those of the reference."""
    meter = Meter(disagreement=0.05, reference=by_hand())
    meter.add({"shadowed": 40, "agreed": 20}, seen=counts((0, 128, 0), (32, 32, 32, 32)))
    assert meter.read(is_last=True).drift.warning == ""
    assert "early answers" in meter.shift()


def test_few_records_are_compared_at_the_end():
    meter = Meter(reference=by_hand())
    meter.add({}, seen=counts((0, 60, 0), (15, 15, 15, 15)))
    assert meter.read().drift.warning == ""
    assert "kind cat" in meter.read(is_last=True).drift.warning


def test_without_a_cascade_nothing_shifts():
    meter = Meter()
    meter.add({"shadowed": 20, "agreed": 0})
    assert meter.shift() == ""


def test_the_busy_share_is_of_the_time_of_all_devices():
    meter = Meter()
    assert meter.read().device_busy == 0
    meter.add({"task": 0.5}, {"busy": 3.0, "wall": 4.0}, "GPU 0")
    meter.add({}, {"busy": 5.0, "wall": 6.0}, "GPU 1")
    assert (meter.read().device_busy, meter.read().task_s) == (0.8, 0.5)


def test_what_a_device_did_is_told_for_each_device():
    meter = Meter()
    batch = {"busy": 1.0, "wall": 2.0, "copied": 0.5, "changes": 1, "shape 8 rows, 8 images": 1}
    full = {"places rows": 8, "used rows": 8, "places images": 8, "used images": 2, "places texts": 0}
    meter.add({"rows": 8}, {**batch, **full, "used texts": 0, "planned": 1.0}, "a GPU 0")
    meter.add({"rows": 6}, {**batch, **full, "used rows": 6, "used texts": 0, "changes": 0}, "a GPU 0")
    meter.add({"rows": 8}, batch, "b GPU 0")
    use = meter.read().devices["a GPU 0"].to_json()
    assert use == {
        **{"busy": 0.6667, "busy_s": 2.0, "planned_s": 1.0, "copied_s": 1.0, "wall_s": 4.0},
        **{"batches": 2, "shapes": {"8 rows, 8 images": 2}, "changes": 1},
        "padding": {"rows": 0.125, "images": 0.75},
    }
    assert list(meter.read().devices) == ["a GPU 0", "b GPU 0"]


PLACE = Place("a.tar@9", Missing(64, 191, 4096))


def test_a_worker_that_does_not_leave_is_lost_with_its_rows():
    meter = Meter()
    for worker in "abc":
        meter.enter(worker, "read", (PLACE,))
        meter.enter(worker, "model")
    meter.leave("a", Message("model"))
    meter.give_up("c", "hung", "model")
    assert meter.take_lost() == [Doing("model", (PLACE,)), Doing("model", (PLACE,), end="hung")]
    assert meter.take_lost() == []


def test_a_worker_that_was_about_to_start_is_not_lost():
    """Ray ends those, too, when there is no more to do."""
    meter = Meter()
    meter.enter("a", START)
    assert meter.take_lost() == []


def test_only_rows_starts_and_ends_are_progress():
    meter = Meter()
    moves = [meter.read().moves]
    steps = [
        lambda: meter.enter("a", "read", (PLACE,)),
        lambda: meter.enter("a", "model"),
        lambda: meter.add({"model": 2.0}),
        lambda: meter.add({"prepared": 64}),
        lambda: meter.add({"rows": 64}),
        lambda: meter.give_up("a", "hung", "model"),
        lambda: meter.fail("b.tar", "gone"),
    ]
    for step in steps:
        step()
        moves.append(meter.read().moves)
    assert [after - before for before, after in pairwise(moves)] == [1, 0, 0, 1, 1, 1, 1]


def test_the_first_reason_to_break_off_stays():
    meter = Meter()
    meter.break_off("the disk is full")
    meter.break_off("the disk is still full")
    assert meter.read().broken == "the disk is full"


def test_a_worker_says_in_one_message_what_it_did_and_what_it_is_at():
    meter = Meter()
    meter.tell("a", Message("read", (PLACE,)))
    meter.tell("a", Message("model", None, {"rows": 3}, {"busy": 1.0, "wall": 2.0}, "GPU 0"))
    snapshot = meter.read()
    assert (snapshot.rows, snapshot.doing) == (3, {"a": Doing("model", (PLACE,))})
    assert snapshot.devices["GPU 0"].busy_s == 1.0
    meter.leave("a", Message("model", None, {"rows": 2}))
    assert (meter.read().rows, meter.read().doing) == (5, {})
