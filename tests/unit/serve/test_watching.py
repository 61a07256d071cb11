"""A replica warns once a day where requests are of another kind, and counts nothing but requests."""

import asyncio
import logging

import numpy as np
from support.bundles import small_bundle
from support.cascades import mixed_records
from support.drift import by_hand, counts, referring
from support.media import image_bytes

from mmray.drift import UNWATCHED
from mmray.drift.watch import WINDOW
from mmray.predictor import open_preprocessor
from mmray.serve.bodies import Item
from mmray.serve.compute import Compute
from mmray.serve.metrics import Metrics
from mmray.serve.model import BatchedModel
from mmray.serve.probe import known_work
from mmray.serve.settings import ServeSettings
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


def test_requests_without_pictures_and_sounds_are_told_where_the_reference_has_them(tmp_path, caplog):
    """Its own probes are none of them, however many there are."""
    whole = mixed_records(420).filter(np.arange(420) % 7 == 6)
    bundle = referring(tmp_path / "known", small_bundle(), whole)
    logger = logging.getLogger("ray.serve")
    logger.addHandler(caplog.handler)

    async def serve():
        settings, compute = ServeSettings(bundle=str(bundle.path)), Compute("t", 60.0, 0.0)
        model = BatchedModel(bundle, settings, compute, Metrics())
        for _ in range(WINDOW):
            compute.doubt()
            await model.check_health()
        before = len(caplog.records)
        await model.answer(Work([Item({"text": b"a red cat"})] * WINDOW))
        return before

    assert asyncio.run(serve()) == 0
    logger.removeHandler(caplog.handler)
    assert "these records are not like those of the tune split: modalities" in caplog.messages[0]
