"""Runs some records through preprocessing and model in this process, with a span for each stage and node."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, time_ns
from typing import Any

from mmray.bundle import Bundle
from mmray.engine import Provider
from mmray.errors import InputError
from mmray.predictor import Predictor, open_preprocessor
from mmray.sources import ReadOptions, Shard, read

_STAGES = ("read", "align", "image", "text", "audio", "model", "shadow")  # in the order of execution


@dataclass(frozen=True)
class Node:
    """All nodes of one kind."""

    operator: str
    provider: str  # as ONNX Runtime names it, without its suffix
    seconds: float


@dataclass(frozen=True)
class Profile:
    """Times of some records."""

    variant: str
    rows: int
    seconds: Mapping[str, float]  # by stage; the model's are longer than they are without tracing
    nodes: Sequence[Node]  # the most expensive first
    events: Sequence[Mapping[str, Any]]  # of the trace


def profile(
    bundle: Bundle,
    shards: Sequence[Shard],
    *,
    variant: str = "auto",
    provider: Provider = "auto",
    rows: int = 200,
) -> Profile:
    """Run records like one worker of a job, and record times.

    The first block runs twice and counts once: kernels and libraries are loaded in the first run.

    Args:
        bundle: the model.
        shards: where records are; the first ones are taken.
        variant: as in `mmray.predictor.Predictor`.
        provider: as in `Predictor`.
        rows: how many records, at most.

    Raises:
        InputError: there is no record.
        BundleError, EngineError: as in `Predictor`.
    """
    with tempfile.TemporaryDirectory() as folder:
        predict = Predictor(bundle, variant=variant, provider=provider, trace=Path(folder) / "nodes")
        preprocess = open_preprocessor(bundle)
        spans: list[dict[str, Any]] = []
        seconds: Counter[str] = Counter()
        done = began = 0
        blocks = (block for shard in shards for block in read(shard, ReadOptions()))
        while done < rows:
            clock = perf_counter()
            block = next(blocks, None)
            if block is None:
                break
            block = block.slice(0, rows - done)
            took = {"read": perf_counter() - clock}
            if not began:
                predict(preprocess(block, predict.later), preprocess.complete)
                preprocess.seconds.clear()
                predict.seconds.clear()
                began = time_ns()
            start = time_ns()
            predict(preprocess(block, predict.later), preprocess.complete)
            for counted in (preprocess.seconds, predict.seconds):
                took.update(counted)
                counted.clear()
            done += block.num_rows
            spans += _laid_out(took, start - round(1e9 * took["read"]), block.num_rows)
            seconds.update(took)
        nodes = [event for trace in predict.end_traces() for event in _nodes(*trace)]
    nodes = [event for event in nodes if event["ts"] >= began / 1e3]
    if not done or not nodes:
        raise InputError(f"{shards[0].url}: no record that the model takes; give other shards")
    return Profile(predict.variant, done, dict(seconds), _summed(nodes), [*_names(), *spans, *nodes])


def write_trace(found: Profile, path: Path) -> None:
    """Write the spans as a file that ui.perfetto.dev and chrome://tracing open.

    The format is that of Chrome's "Trace Event Format": complete events (`ph` X), times in microseconds.
    """
    path.write_text(json.dumps({"traceEvents": list(found.events), "displayTimeUnit": "ms"}))


def _laid_out(took: Mapping[str, float], start: int, rows: int) -> list[dict[str, Any]]:
    """A block's stages one after the other: each is timed as a whole, over all records of the block."""
    at, events = start / 1e3, []
    for stage in _STAGES:
        if duration := 1e6 * took.get(stage, 0.0):
            events.append(_event(stage, at, duration, 1, {"records": rows}))
            at += duration
    return events


def _nodes(file: Path, began: int) -> list[dict[str, Any]]:
    """Times of nodes, from ONNX Runtime's trace."""
    return [
        _event(
            event["args"]["op_name"],
            began / 1e3 + event["ts"],
            event["dur"],
            2,
            {"node": event["name"].removesuffix("_kernel_time"), "provider": event["args"]["provider"]},
        )
        for event in json.loads(file.read_text())
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]


def _summed(nodes: Sequence[Mapping[str, Any]]) -> list[Node]:
    sums: Counter[tuple[str, str]] = Counter()
    for event in nodes:
        sums[event["name"], event["args"]["provider"]] += event["dur"]
    return [
        Node(operator, provider.removesuffix("ExecutionProvider"), microseconds / 1e6)
        for (operator, provider), microseconds in sums.most_common()
    ]


def _event(name: str, at: float, duration: float, thread: int, args: Mapping[str, Any]) -> dict[str, Any]:
    return {"ph": "X", "pid": 1, "tid": thread, "name": name, "ts": at, "dur": duration, "args": dict(args)}


def _names() -> list[dict[str, Any]]:
    """Names of the two rows of the trace."""
    return [
        {"ph": "M", "pid": 1, "tid": thread, "name": "thread_name", "args": {"name": name}}
        for thread, name in ((1, "stages"), (2, "nodes of the graphs"))
    ]
