"""A replica warns once a day where requests are of another kind, and counts nothing but requests."""

import logging

from support.bundles import small_bundle
from support.drift import by_hand, counts
from support.media import image_bytes

from mmray.drift import UNWATCHED
from mmray.predictor import open_preprocessor
from mmray.serve.bodies import Item
from mmray.serve.metrics import Metrics
from mmray.serve.probe import known_work
from mmray.serve.watching import DailyWatch
from mmray.serve.work import Work, prepare

LIKE, UNLIKE = counts((96, 32, 0), (32, 32, 32, 32)), counts((0, 128, 0), (32, 32, 32, 32))


def test_a_shift_is_logged_once_and_again_on_the_next_day(caplog):
    now = [0.0]
    watch = DailyWatch(by_hand(), Metrics(), clock=lambda: now[0])
    with caplog.at_level(logging.WARNING, "ray.serve"):
        logging.getLogger("ray.serve").addHandler(caplog.handler)  # Ray may keep it from the root logger
        watch.add(LIKE)
        assert not caplog.messages
        for now[0] in (10.0, 20.0, 86_399.0):
            watch.add(UNLIKE)
        told = len(set(caplog.records))
        assert told == 1
        assert "kind cat: 0.0% of the last 128, 75.0% there" in caplog.messages[0]
        now[0] = 86_400.0
        watch.add(UNLIKE)
        logging.getLogger("ray.serve").removeHandler(caplog.handler)
        assert len(set(caplog.records)) == 2


def test_records_of_requests_are_watched_and_what_the_server_makes_up_is_not():
    item = Item({"image": image_bytes(), "text": b"a red cat"})
    works = [Work([item, item]), Work([item], explain=True), known_work(small_bundle().spec, explain=False)]
    prepared = prepare(open_preprocessor(small_bundle()), (), works)
    unwatched = prepared.tensors[UNWATCHED].to_pylist()
    assert [[unwatched[row] for row in rows] for rows in prepared.rows] == [
        [False, False],
        [False, True, True],
        [True],
    ]
