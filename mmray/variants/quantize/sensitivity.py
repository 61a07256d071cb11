"""Which blocks of a graph are sensitive to a lower precision, and the fewest that must stay in float.

Works for any precision: `quantize` makes a graph in which the named nodes stay in float; `change` measures
how far its decisions are from the parent's, infinite if an output is not finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx

from mmray.errors import EngineError
from mmray.variants.quantize.targets import name_of, sites

Quantize = Callable[[Collection[str]], onnx.ModelProto]

_MOST_SITES = 12  # of a block: a transformer's layer has 4 to 8


@dataclass(frozen=True)
class Sensitivity:
    """How much the decisions change if only this block is in the lower precision."""

    block: str
    nodes: tuple[str, ...]
    change: float


@dataclass(frozen=True)
class Found:
    """A graph that passes, and the blocks that stayed in float for it, the most sensitive first."""

    model: onnx.ModelProto
    kept: tuple[str, ...]


def blocks(model: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """Names of a graph's nodes by the layer or block that they belong to, in order.

    The names of a node's parameters give its block; without any, those of the next node; else it belongs to
    the block of the previous node. A block is a common prefix of names up to a number, as in
    ``encoder.layers.3``; up to the next number if it is too large; a dozen sites in a row if names do not
    divide it further.
    """
    paths = _paths(model.graph)
    heavy = {name_of(site.node) for site in sites(model.graph)}
    return {title: tuple(nodes) for title, nodes in _divide(list(paths), paths, heavy, depth=1)}


def rank(
    model: onnx.ModelProto,
    quantize: Quantize,
    change: Callable[[onnx.ModelProto], float],
    groups: Mapping[str, Collection[str]] | None = None,
) -> list[Sensitivity]:
    """Put blocks in order, those that change the decisions most first.

    Args:
        model: in float32.
        quantize: from names of nodes that stay in float to the graph.
        change: of a graph's decisions, zero for the model's own; the larger, the worse.
        groups: names of nodes by the name of their block; None takes `blocks` of the model.
    """
    groups = blocks(model) if groups is None else groups
    everything = frozenset(name for nodes in groups.values() for name in nodes)
    untouched = quantize(everything)
    found = []
    for block, nodes in groups.items():
        tried = quantize(everything.difference(nodes))
        # A block of shapes and indices has nothing to quantize and need not be run.
        measured = 0.0 if tried == untouched else change(tried)
        found.append(Sensitivity(block, tuple(nodes), math.inf if math.isnan(measured) else measured))
    return sorted(found, key=lambda sensitivity: -sensitivity.change)


def fewest_exclusions(
    ranked: Sequence[Sensitivity], quantize: Quantize, passes: Callable[[onnx.ModelProto], bool]
) -> Found:
    """Leave as few as possible of the most sensitive blocks in float so that the graph passes.

    Tries 0, 1, 2, 4, … blocks until it passes, then bisects.

    Args:
        ranked: from `rank`.
        quantize: from names of nodes that stay in float to the graph.
        passes: whether a graph is good enough.

    Raises:
        EngineError: it does not pass even with all but one block in float.
    """
    sensitive = [sensitivity for sensitivity in ranked if sensitivity.change > 0]

    def attempt(count: int) -> onnx.ModelProto | None:
        model = quantize({name for sensitivity in sensitive[:count] for name in sensitivity.nodes})
        return model if passes(model) else None

    failed, count = -1, 0
    while (model := attempt(count)) is None:
        if count >= len(sensitive) - 1:
            raise EngineError(
                f"does not pass even with {count} of {len(sensitive)} blocks in float; try another precision"
            )
        failed, count = count, min(max(2 * count, 1), len(sensitive) - 1)
    while count - failed > 1:
        middle = (failed + count) // 2
        if better := attempt(middle):
            model, count = better, middle
        else:
            failed = middle
    return Found(model, tuple(sensitivity.block for sensitivity in sensitive[:count]))


def _paths(graph: onnx.GraphProto) -> dict[str, tuple[str, ...]]:
    """For each node, the names of its enclosing parts, from the outermost on."""
    constants = {i.name for i in graph.initializer}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)

    def own(node: onnx.NodeProto) -> tuple[str, ...]:
        names = [_split(name) for name in (*(i for i in node.input if i in constants), node.name)]
        return max(names, key=len)[:-1]

    found: dict[str, tuple[str, ...]] = {}
    of_tensor: dict[str, tuple[str, ...]] = {}
    for node in graph.node:
        after = users.get(node.output[0], [])
        before = [of_tensor[name] for name in node.input if of_tensor.get(name)]
        path = own(node) or (own(after[0]) if len(after) == 1 else ()) or next(iter(before), ())
        of_tensor |= dict.fromkeys(node.output, path)
        found[name_of(node)] = path
    return found


def _split(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.replace("/", ".").split(".") if part)


def _divide(
    names: Sequence[str], paths: Mapping[str, tuple[str, ...]], heavy: Collection[str], depth: int
) -> Iterator[tuple[str, list[str]]]:
    """Blocks of the named nodes, by title: their paths up to the depth-th number."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(".".join(_up_to_number(paths[name], depth)), []).append(name)
    for title, members in groups.items():
        if sum(name in heavy for name in members) <= _MOST_SITES:
            yield title or "elsewhere", members
        elif len({_up_to_number(paths[name], depth + 1) for name in members}) > 1:
            yield from _divide(members, paths, heavy, depth + 1)
        else:
            yield from _runs(title, members, heavy)


def _up_to_number(path: tuple[str, ...], depth: int) -> tuple[str, ...]:
    numbers = [i for i, part in enumerate(path) if part.isdigit()]
    return path[: numbers[depth - 1] + 1] if len(numbers) >= depth else path


def _runs(title: str, names: Sequence[str], heavy: Collection[str]) -> Iterator[tuple[str, list[str]]]:
    """The nodes, cut after every _MOST_SITES sites."""
    run: list[str] = []
    number = 1
    for name in names:
        if name in heavy and sum(other in heavy for other in run) == _MOST_SITES:
            yield f"{title or 'part'} {number}", run
            run, number = [], number + 1
        run.append(name)
    yield f"{title or 'part'} {number}", run
