"""Golden inputs: check that preprocessing and engine give the same results as where the bundle was made.

They are run when a model is opened: from raw records if the bundle has some, else from tensors. And they are
run again when a batch fails (`mmray.predictor.blame`): the result of the same engine for known inputs shows
whether the engine or a record is at fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mmray.batching import INPUTS, Feeds, pack
from mmray.bundle import Bundle
from mmray.cascade import CARRIED, Stage, passes
from mmray.errors import EngineError
from mmray.preprocess import Preprocessor
from mmray.shapes import Shape

# Decoders and SIMD kernels of other machines round differently: tolerances for the mean difference of all
# pixels (grey levels) or log-mel values of a record, and for the outputs computed from them. Stamps resized
# by Pillow instead of by SIMD: 0.003 grey levels, and outputs that differ by 0.0005.
_ROUNDED = {"pixels": 2.0, "log_mel": 0.1}
_DECODED = 0.02
# A batch that is padded for a device also has other records, and kernels add in another order. A lost device
# gives an error, values that are not finite, or far larger differences.
_PADDED = 0.05

# Arrays of each modality, by the array with the record of each row.
_PACKED: Mapping[str, Sequence[str]] = {owner: names for *names, owner in INPUTS.values()}


class Golden(NamedTuple):
    """The golden inputs of one stage, and its outputs for them when the model was opened."""

    where: str  # model, variant, stage and device, for errors
    decisive: str  # output that a prediction is read from; it must be finite
    feeds: Feeds
    expected: npt.NDArray[np.generic]  # [B, D], of that output
    allowed: float

    def check(self, outputs: npt.NDArray[np.generic]) -> None:
        """Raises ValueError if a run of all of them gave other outputs."""
        _compare(outputs, self.expected, self.allowed)

    def check_some(self, outputs: npt.NDArray[np.generic], rows: Sequence[int]) -> None:
        """The same for some of its records, in a padded batch."""
        if rows:
            _compare(outputs, self.expected[list(rows)], max(self.allowed, _PADDED))


def prove(bundle: Bundle, variant: str, stages: Sequence[Stage], where: str) -> tuple[float, list[Golden]]:
    """Run the golden inputs through all stages, without exits.

    Args:
        bundle: an opened bundle.
        variant: one of its variants.
        stages: that are loaded.
        where: what runs them, for errors.

    Returns:
        The largest difference from the golden outputs, and for each stage the outputs to compare with later.

    Raises:
        BundleError: a file of it was altered.
        EngineError: the outputs here differ from the bundle's.
    """
    inputs, expected = bundle.golden(variant)
    decisive, allowed = bundle.decisive, bundle.entry(variant).golden_tolerance

    def run(feeds: Feeds) -> tuple[list[tuple[Feeds, Feeds]], float]:
        try:
            found = passes(stages, feeds, bundle.spec.modalities)
            for _, outputs in found:
                _check_width(outputs, len(bundle.labels))
            return found, output_difference(found[-1][1][decisive], expected[decisive])
        except Exception as e:  # ONNX Runtime's own exception types share no base
            raise EngineError(
                f"{bundle.path}: variant {variant} does not run on its golden inputs on {where}: {e}"
            ) from e

    found, difference = run(inputs)
    if not difference <= allowed:  # also true for NaN
        raise EngineError(
            f"{bundle.path}: variant {variant} is off its golden {decisive} by {difference:.2g} on {where}; "
            "it cannot be trusted on this machine; choose another variant or provider"
        )
    fresh = remade(bundle, inputs)
    if any(not np.array_equal(inputs[name], fresh[name]) for name in fresh):
        _, off = run({**inputs, **fresh})
        if not off <= max(allowed, _DECODED):
            raise EngineError(
                f"{bundle.path}: variant {variant} is off its golden {decisive} by {off:.2g} once this "
                "machine decodes the golden records; compare the versions of its decoders"
            )
    names = [f", stage {number}," if len(stages) > 1 else "" for number in range(1, len(stages) + 1)]
    return difference, [
        Golden(
            f"{bundle.path}: variant {variant}{name} on {where}",
            decisive,
            {name: feeds[name] for name in stage.engine.inputs},
            outputs[decisive],
            allowed,
        )
        for name, stage, (feeds, outputs) in zip(names, stages, found, strict=True)
    ]


def remade(bundle: Bundle, inputs: Feeds) -> Feeds:
    """Golden inputs, with the raw golden records preprocessed on this machine.

    Returns:
        The arrays made from decoded bytes; none if the bundle has no raw records.

    Raises:
        BundleError: a file of it was altered.
        EngineError: a record is refused here, has other tokens, or a different picture or sound.
    """
    records = bundle.golden_records()
    if records is None:
        return {}
    tensors = Preprocessor(bundle.spec, bundle.tokenizer)(records)
    for row, fault in zip(records["row"].to_pylist(), tensors["error"].to_pylist(), strict=True):
        if fault:
            raise _other(bundle, f"refuses golden record {row}: {fault['reason']}")
    made, numbers = pack(tensors, bundle.spec), records["row"].to_numpy()
    fresh: Feeds = {}
    for owner, names in _PACKED.items():
        if owner not in made or owner not in inputs:
            continue
        places = np.flatnonzero(np.isin(inputs[owner], numbers))
        if not np.array_equal(inputs[owner][places], numbers[made[owner]]):
            raise _other(bundle, f"makes another number of {names[0]} of the golden records")
        if owner == "text_row":
            if _texts(made, np.arange(len(places))) != _texts(inputs, places):
                raise _other(bundle, "makes other tokens of the golden texts")
            continue
        [name] = names
        off = np.abs(np.subtract(made[name], inputs[name][places], dtype=np.float32))
        if len(places) and not float(off.reshape(len(places), -1).mean(axis=1).max()) <= _ROUNDED[name]:
            raise _other(bundle, f"makes other {name} of the golden records")
        fresh[name] = inputs[name].copy()
        fresh[name][places] = made[name]
    return fresh


def fitting(feeds: Feeds, shape: Shape) -> list[int]:
    """As many golden records as fit into a padded batch, in order."""
    rows: list[int] = []
    left = shape._asdict()
    for row in range(len(feeds["present"])):
        counts = {"rows": 1}
        for owner, size in (("pixels_row", "images"), ("text_row", "texts"), ("log_mel_row", "patches")):
            counts[size] = int((feeds[owner] == row).sum()) if owner in feeds else 0
        tokens = feeds["attention_mask"][feeds["text_row"] == row].sum() if counts["texts"] else 0
        if tokens <= shape.tokens and all(counts[size] <= left[size] for size in counts):
            rows.append(row)
            left |= {size: left[size] - n for size, n in counts.items()}
    return rows


def lay(buffers: Feeds, feeds: Feeds, rows: Sequence[int]) -> None:
    """Copy golden records into the arrays of a padded batch, in place, like `mmray.batching.fill`."""
    dummy = len(buffers["present"]) - 1
    buffers["present"][:] = False
    buffers["present"][: len(rows)] = feeds["present"][list(rows)]
    if "input_ids" in buffers:
        buffers["input_ids"][:] = buffers["attention_mask"][:] = 0
        buffers["attention_mask"][:, 0] = 1
    for owner, names in _PACKED.items():
        if owner not in buffers:
            continue
        chosen = np.flatnonzero(np.isin(feeds[owner], rows))
        buffers[owner][:] = dummy
        buffers[owner][: len(chosen)] = np.searchsorted(rows, feeds[owner][chosen])
        for name in names:
            values = feeds[name][chosen]
            if owner == "text_row":
                values = values[:, : buffers[name].shape[1]]
                buffers[name][: len(chosen), : values.shape[1]] = values
            else:
                buffers[name][: len(chosen)] = values
    for name in buffers:
        if name.startswith(CARRIED):
            buffers[name][: len(rows)] = feeds[name][list(rows)]


def output_difference(found: npt.NDArray[np.generic], expected: npt.NDArray[np.generic]) -> float:
    """Largest difference of two outputs, as a share of the largest expected value if that is above 1."""
    if found.shape != expected.shape:
        raise ValueError(f"outputs {found.shape} where {expected.shape} are expected")
    scale = max(1.0, float(np.abs(expected).max()))
    return float(np.abs(np.subtract(found, expected)).max()) / scale


def _compare(found: npt.NDArray[np.generic], expected: npt.NDArray[np.generic], allowed: float) -> None:
    difference = output_difference(found, expected)
    if not difference <= allowed:  # also true for NaN
        raise ValueError(f"golden outputs are off by {difference:.2g}")


def _check_width(outputs: Feeds, labels: int) -> None:
    for name in ("logits", "scores"):
        if labels and name in outputs and outputs[name].shape[1] != labels:
            raise ValueError(f"{outputs[name].shape[1]} {name} for {labels} labels")


def _texts(feeds: Feeds, places: npt.NDArray[np.int64]) -> list[list[int]]:
    pairs = zip(feeds["input_ids"][places], feeds["attention_mask"][places], strict=True)
    return [ids[mask == 1].tolist() for ids, mask in pairs]


def _other(bundle: Bundle, what: str) -> EngineError:
    return EngineError(
        f"{bundle.path}: the preprocessing of this machine {what}; compare the versions of its decoders "
        "and of mmray with those that the bundle was made with"
    )
