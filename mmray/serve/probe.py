"""A probe record with a known answer: it takes the path of a request and shows that the model works."""

from __future__ import annotations

import io
import math
import struct
import wave
from collections.abc import Iterator

import numpy as np
from PIL import Image

from mmray.golden import output_difference
from mmray.preprocess.spec import PreprocessSpec
from mmray.serve.bodies import Item
from mmray.serve.work import Answered, Work

# Other records in a batch change an int8 answer by hundredths; a broken model differs by more, or is not
# finite.
_MOST_DIFFERENCE = 0.1
_SOUND_RATE, _SOUND_HZ = 16_000, 440


def known_work(spec: PreprocessSpec, *, explain: bool) -> Work:
    """One record with each modality of the model.

    Args:
        spec: of the bundle.
        explain: also predict without each modality, so that every stage of a cascade runs.
    """
    # A digit belongs to no script, so it is a foreign text for no model.
    made = {"image": _picture, "text": lambda: b"1", "audio": _sound}
    return Work([Item({m: made[m]() for m in spec.modalities})], explain, is_ours=True)


def same(found: Answered, expected: Answered) -> bool:
    """Whether two answers to the same work agree, within the influence of other records in the batch."""
    pairs = list(zip(_rows(found), _rows(expected), strict=True))
    return all(_agree(a, b) for a, b in pairs)


def _rows(answered: Answered) -> Iterator[dict[str, object]]:
    yield from answered.rows
    yield from answered.without.values()


def _agree(found: dict[str, object], expected: dict[str, object]) -> bool:
    if found["error"] or expected["error"]:
        return found["error"] == expected["error"]
    values = [name for name in ("scores", "features") if name in expected]
    differences = [output_difference(np.array(found[n]), np.array(expected[n])) for n in values]
    return all(difference <= _MOST_DIFFERENCE for difference in differences)  # false for NaN, too


def _picture() -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((32, 32)).convert("RGB").save(file, "PNG")
    return file.getvalue()


def _sound() -> bytes:
    turns = 2 * math.pi * _SOUND_HZ / _SOUND_RATE
    samples = [round(10_000 * math.sin(turns * i)) for i in range(_SOUND_RATE)]
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(_SOUND_RATE)
        sound.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return file.getvalue()
