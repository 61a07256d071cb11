"""Streams with separate clocks → moments: each frame with the events of other streams around its time.

An as-of join over time in bounded memory: every stream is read once, together with the frames, and only
events that the next frames may need are held. Events may arrive out of order within a bound; later ones are
dropped and counted, like data behind the watermark (Akidau et al. 2015, The Dataflow Model, PVLDB 8(12)).
Streams are pulled, so a live stream without events makes the join wait.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mmray.align.clock import Clock

V = TypeVar("V")


@dataclass(frozen=True)
class Event(Generic[V]):
    """An item of a stream with its start and end, in seconds of its own clock; a frame has no length."""

    start_s: float
    end_s: float
    value: V


@dataclass(frozen=True)
class Stream(Generic[V]):
    """Events as they arrive, and the clock that their times are on."""

    events: Iterable[Event[V]]
    clock: Clock


@dataclass(frozen=True)
class Moment(Generic[V]):
    """A frame, and by stream the events in the window around it, in order of their start."""

    frame: Event[V]
    near: Mapping[str, tuple[Event[Any], ...]]


@dataclass(frozen=True)
class Bounds:
    """The window around a frame, and limits of held events."""

    before_s: float = 1.0
    after_s: float = 1.0
    lateness_s: float = 2.0  # an event may arrive this much later than one that starts after it
    max_held: int = 10_000  # events of one stream; beyond that the oldest are dropped


@dataclass(frozen=True)
class _Placed:
    """An event with its times on the common clock."""

    start_s: float
    end_s: float
    event: Event[Any]


class AsOfJoin:
    """Joins streams to the frames of one of them. Serves one join."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        #: Dropped events, by stream and reason: "late", or "crowded" if too many were held.
        self.dropped: Counter[tuple[str, str]] = Counter()
        #: The most events that were held at once, of all streams together.
        self.most_held = 0
        self._waiting: Counter[str] = Counter()

    def __call__(self, frames: Stream[V], others: Mapping[str, Stream[Any]]) -> Iterator[Moment[V]]:
        """Moments in the order of their frames' times."""
        upcoming = {name: self._in_order(name, stream) for name, stream in others.items()}
        following = {name: next(events, None) for name, events in upcoming.items()}
        held: dict[str, deque[_Placed]] = {name: deque() for name in others}
        for frame in self._in_order("frames", frames):
            first, last = frame.start_s - self._bounds.before_s, frame.start_s + self._bounds.after_s
            for name, events in held.items():
                while (event := following[name]) is not None and event.start_s <= last:
                    events.append(event)
                    following[name] = next(upcoming[name], None)
                    if len(events) > self._bounds.max_held:
                        events.popleft()
                        self.dropped[name, "crowded"] += 1
                held[name] = deque(event for event in events if event.end_s >= first)
            self.most_held = max(self.most_held, self._waiting.total() + sum(map(len, held.values())))
            yield Moment(frame.event, {name: tuple(e.event for e in events) for name, events in held.items()})

    def _in_order(self, name: str, stream: Stream[Any]) -> Iterator[_Placed]:
        """A stream's events by their start on the common clock."""
        bounds, heap = self._bounds, list[tuple[float, int, _Placed]]()
        newest = released = float("-inf")
        for number, event in enumerate(stream.events):
            start = stream.clock.to_common(event.start_s)
            if start < released:
                self.dropped[name, "late"] += 1
                continue
            placed = _Placed(start, max(start, stream.clock.to_common(event.end_s)), event)
            heapq.heappush(heap, (start, number, placed))
            newest = max(newest, start)
            while heap and (heap[0][0] <= newest - bounds.lateness_s or len(heap) > bounds.max_held):
                self._waiting[name] = len(heap)
                released, _, placed = heapq.heappop(heap)
                yield placed
        while heap:
            self._waiting[name] = len(heap)
            yield heapq.heappop(heap)[2]
        self._waiting[name] = 0
