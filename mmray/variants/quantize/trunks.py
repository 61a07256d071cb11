"""Each trunk of a graph in the form that is fastest here: float, or int8 of one of two kinds.

A trunk is the part of the graph that depends on one modality only: its encoder, up to where the modalities
meet. The head behind it is small and stays in float.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from time import thread_time

import onnx

from mmray.batching import INPUTS, Feeds, full_batch
from mmray.engine import Engine
from mmray.errors import EngineError
from mmray.schema import MODALITIES, Modality
from mmray.variants.quantize.int8 import Form
from mmray.variants.quantize.targets import name_of

_INT8: tuple[Form, ...] = ("dynamic", "static")
_GAIN = 0.95  # share of float's time: a form that takes more is not worth its changes
_ROUNDS = 8  # of all forms in turn


@dataclass(frozen=True)
class Option:
    """A form of one trunk."""

    form: Form
    ms: float  # a record of this modality alone, CPU time of one thread
    change: float  # of the decisions, in nats


@dataclass(frozen=True)
class Chosen:
    """A graph that passes, and the form of each trunk."""

    model: onnx.ModelProto
    forms: Mapping[Modality, Form]
    report: str  # for people


def trunks(model: onnx.ModelProto) -> dict[Modality, frozenset[str]]:
    """Names of the nodes that depend on one modality alone, by modality, in the schema's order."""
    of: dict[str, frozenset[Modality]] = {
        name: frozenset({m}) for m, names in INPUTS.items() for name in names
    }
    found: dict[Modality, set[str]] = {}
    for node in model.graph.node:
        given = frozenset(m for name in node.input for m in of.get(name, ()))
        of |= dict.fromkeys(node.output, given)
        if len(given) == 1:
            [modality] = given
            found.setdefault(modality, set()).add(name_of(node))
    return {m: frozenset(found[m]) for m in MODALITIES if m in found}


def best_forms(
    model: onnx.ModelProto,
    quantize: Callable[[Callable[[str], Form]], onnx.ModelProto],
    batches: Iterable[Feeds],
    rows: int,
    change: Callable[[onnx.ModelProto], float],
    passes: Callable[[onnx.ModelProto], bool],
) -> Chosen:
    """The fastest combination of forms, one a trunk, that passes.

    Args:
        model: in float32; it is not altered.
        quantize: from a form by a node's name, as of `to_int8`, to the graph.
        batches: records to time with, drawn until each modality has occurred.
        rows: records of one inference, as in the job.
        change: of a graph's decisions, as for `mmray.variants.quantize.sensitivity.rank`.
        passes: whether a graph is good enough.

    Raises:
        EngineError: no trunk is faster in int8, or no combination passes.
    """
    of_trunks = trunks(model)

    def make(forms: Mapping[Modality, Form]) -> onnx.ModelProto:
        of_node = {name: form for m, form in forms.items() for name in of_trunks[m]}
        return quantize(lambda name: of_node.get(name, "float"))

    options: dict[Modality, list[Option]] = {}
    unchanged = make({})
    for modality, feeds in _one_of_each(batches, of_trunks).items():
        kept: dict[Form, onnx.ModelProto] = {"float": model}
        for form in _INT8:
            if (small := make({modality: form})) != unchanged:
                kept[form] = small
        seconds = _seconds(kept, full_batch(feeds, rows, modality))
        options[modality] = [Option("float", 1e3 * seconds["float"] / rows, 0.0)]
        for form in _INT8:
            if form in kept and seconds[form] <= _GAIN * seconds["float"]:
                options[modality].append(Option(form, 1e3 * seconds[form] / rows, change(kept[form])))
    choices = [_undominated(of_one) for of_one in options.values()]
    combinations = sorted(
        product(*choices), key=lambda each: (sum(o.ms for o in each), sum(o.change for o in each))
    )
    for combination in combinations:
        forms = {m: option.form for m, option in zip(options, combination, strict=True)}
        if set(forms.values()) == {"float"}:
            break  # all others are slower
        if passes(small := make(forms)):
            return Chosen(small, forms, _report(options, forms))
    told = _report(options, dict.fromkeys(options, "float"))
    raise EngineError(f"no form of int8 is 5 % faster here and passes: {told}")


def _undominated(options: list[Option]) -> list[Option]:
    """Without NaN, and without those that another one beats in both time and change."""
    return [
        o
        for o in options
        if math.isfinite(o.change) and not any(p.ms < o.ms and p.change < o.change for p in options)
    ]


def _one_of_each(batches: Iterable[Feeds], of: Mapping[Modality, object]) -> dict[Modality, Feeds]:
    """For each modality the first batch in which a record has it; in the order of the modalities."""
    found: dict[Modality, Feeds] = {}
    for feeds in batches:
        found |= {m: feeds for m in of if m not in found and len(feeds[INPUTS[m][0]])}
        if len(found) == len(of):
            break
    return {m: found[m] for m in of if m in found}


def _seconds(models: Mapping[Form, onnx.ModelProto], feeds: Feeds) -> dict[Form, float]:
    """Seconds of a batch by form, the best of a few runs: CPU time, which other load hardly changes."""
    with tempfile.TemporaryDirectory() as folder:
        engines = {}
        for form, model in models.items():
            path = Path(folder) / f"{form}.onnx"
            onnx.save(model, path)
            engines[form] = Engine(path, provider="cpu", threads=1)
            engines[form](feeds)  # the first run allocates
    times = dict.fromkeys(engines, math.inf)
    for _ in range(_ROUNDS):
        for form, engine in engines.items():
            start = thread_time()
            engine(feeds)
            times[form] = min(times[form], thread_time() - start)
    return times


def _report(options: Mapping[Modality, list[Option]], forms: Mapping[Modality, Form]) -> str:
    """As in "image static (float 10.3 ms, static 4.6 ms)", with a comma between the modalities."""
    lines = []
    for modality, tried in options.items():
        times = ", ".join(f"{o.form} {o.ms:.2f} ms" for o in tried)
        lines.append(f"{modality} {forms[modality]} ({times})")
    return ", ".join(lines)
