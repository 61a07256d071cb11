"""Actors of a pool: all work is handed out, whoever dies."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest
import ray

from mmray.pipeline.pool import Pool

# Workers of the session's cluster cannot import this module.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.usefixtures("ray_cluster")


class Worker:
    def run(self, piece: str) -> Iterator[str]:
        yield f"begun {piece}"
        if piece == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        if piece == "wrong":
            raise ValueError("a wrong piece")
        yield f"done {piece}"


class Broken:
    def __init__(self) -> None:
        raise ValueError("no such model")


def pool(size: int, news: list[str | None], worker: type = Worker, cpus: float = 0.5) -> Pool[str]:
    actor = ray.remote(num_cpus=cpus)(worker)
    return Pool(
        size,
        actor.remote,
        lambda member, piece: member.run.options(num_returns="streaming").remote(piece),
        lambda _, said: news.append(said),
    )


def test_all_work_is_done_and_all_news_are_heard():
    news: list[str | None] = []
    assert pool(2, news).run("abcde") == []
    assert sorted(n for n in news if n) == sorted(f"{w} {p}" for p in "abcde" for w in ("begun", "done"))
    assert news.count(None) == 5


def test_work_whose_actor_dies_is_named_and_all_other_is_done():
    news: list[str | None] = []
    assert pool(1, news).run(["a", "deadly", "b", "deadly", "c"]) == ["deadly", "deadly"]
    assert [n for n in news if n and n.startswith("done")] == ["done a", "done b", "done c"]


def test_an_actor_without_room_gets_no_work():
    news: list[str | None] = []
    assert pool(5, news, cpus=2).run("abc") == []
    assert news.count(None) == 3


def test_what_a_piece_of_work_raises_ends_the_run():
    with pytest.raises(ValueError, match="a wrong piece"):
        pool(2, []).run(["a", "wrong", "b"])


def test_an_actor_that_cannot_be_made_ends_the_run():
    with pytest.raises(ray.exceptions.ActorDiedError, match="no such model"):
        pool(2, [], Broken).run("ab")


def test_nothing_to_do_starts_no_actor():
    assert Pool(2, lambda: pytest.fail("started"), lambda *_: None, lambda *_: None).run([]) == []
