"""Ray actors, each of which gets the next piece of work when it is done with one. Knows nothing of the work.

Ray Data would do the same, with a loop in the driver and three actors of its own that are awake all the time.
Without them two workers have .97 of a core each instead of .92 (docs/log.md).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import RayActorError

T = TypeVar("T")

Actor = Any  # a Ray actor handle; Ray gives it no type
Stream = Any  # ray.ObjectRefGenerator: what a call yields, while it runs

_SIGNAL_S = 0.5  # ray.wait lets a signal wait until its end
_STILLBORN = 3  # actors in a row that may die before they are ready, one for each place apart


class Pool(Generic[T]):
    """Actors of one kind, and work for them.

    Args:
        size: actors at once, at most. One that has no room in the cluster yet gets no work.
        start: asks for an actor.
        call: begins a piece of work in an actor.
        heard: told which actor yields what; None: it has ended its piece, or died.
    """

    def __init__(
        self,
        size: int,
        start: Callable[[], Actor],
        call: Callable[[Actor, T], Stream],
        heard: Callable[[Actor, Any], None],
    ) -> None:
        self._size = size
        self._start = start
        self._call = call
        self._heard = heard
        self._todo: deque[T] = deque()
        self._starting: dict[Any, Actor] = {}  # by the reference that says when it is ready
        self._running: dict[Stream, tuple[Actor, T]] = {}
        self._lost: list[T] = []
        self._stillborn = 0  # in a row

    def run(self, work: Iterable[T]) -> list[T]:
        """Hand out work in its order, and wait for its end.

        A piece whose actor dies is not tried again here: what is on disk shows how much of it is missing.
        Another actor takes the place of the dead one.

        Returns:
            Pieces whose actor died.

        Raises:
            Exception: what a piece of work raised, or the making of an actor.
        """
        self._todo.extend(work)
        try:
            while self._todo or self._running:
                for _ in range(min(self._size - len(self._running), len(self._todo)) - len(self._starting)):
                    actor = self._start()
                    self._starting[actor.__ray_ready__.remote()] = actor
                for ready in self._wait():
                    if ready in self._running:
                        self._hear(ready)
                    else:
                        self._admit(ready)
        except SystemError as e:  # so Ray's calls pass on what a signal's handler raises
            raise e.__cause__ or e from None
        finally:
            for actor in (*self._starting.values(), *(actor for actor, _ in self._running.values())):
                ray.kill(actor)
        return self._lost

    def _wait(self) -> list[Any]:
        """What is ready of all that is waited for; nothing after a while, so that signals are seen."""
        everything = [*self._starting, *self._running]
        ready, _ = ray.wait(everything, timeout=_SIGNAL_S)
        if ready:  # all of them: to ask for each anew would take a time that grows with the square of actors
            ready, _ = ray.wait(everything, num_returns=len(everything), timeout=0)
        return ready

    def _admit(self, ready: Any) -> None:  # noqa: ANN401  (a ray.ObjectRef; its type is generic)
        actor = self._starting.pop(ready)
        try:
            ray.get(ready)
        except RayActorError as e:
            self._stillborn += 1
            if e.actor_init_failed or self._stillborn > self._size + _STILLBORN:
                raise
            return
        self._stillborn = 0
        self._give(actor)

    def _hear(self, stream: Stream) -> None:
        actor, piece = self._running[stream]
        try:
            self._heard(actor, ray.get(next(stream)))
        except StopIteration:
            del self._running[stream]
            self._heard(actor, None)
            self._give(actor)
        except RayActorError:
            del self._running[stream]
            self._heard(actor, None)
            self._lost.append(piece)
            ray.kill(actor)  # it may only be out of reach

    def _give(self, actor: Actor) -> None:
        if self._todo:
            piece = self._todo.popleft()
            self._running[self._call(actor, piece)] = actor, piece
        else:
            ray.kill(actor)
