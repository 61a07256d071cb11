"""Records to check an imported model on: real ones, or synthetic ones."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import soundfile
from PIL import Image
from tokenizers import Tokenizer

from mmray.errors import InputError
from mmray.importing.card import Card
from mmray.preprocess import Preprocessor
from mmray.schema import RECORDS, table
from mmray.sources import ReadOptions, list_shards, read

ROWS = 16


def sample_records(card: Card) -> tuple[pa.Table, pa.Table]:
    """At most ROWS records, as RECORDS and as TENSORS without errors, from the model's own preprocessing.

    Raises:
        InputError: none of the example records can be used.
    """
    preprocess = Preprocessor(card.spec, card.tokenizer)
    if not card.examples:
        made_up = _made_up(card)
        return made_up, preprocess(made_up)
    raw: list[pa.Table] = []
    rows: list[pa.Table] = []
    options = ReadOptions(block_rows=ROWS)
    for block in (block for shard in list_shards(card.examples) for block in read(shard, options)):
        tensors = preprocess(block)
        is_good = pc.is_null(tensors["error"])
        raw.append(block.filter(is_good))
        rows.append(tensors.filter(is_good))
        if sum(part.num_rows for part in rows) >= ROWS:
            break
    found = pa.concat_tables(rows).slice(0, ROWS) if rows else None
    if not found:
        raise InputError(
            f"{card.examples[0]}: none of the example records can be used; check them with `mmray plan`"
        )
    return pa.concat_tables(raw).slice(0, ROWS), found


def _made_up(card: Card) -> pa.Table:
    """RECORDS of blurred noise, random tokens and chords; the same in every call."""
    random = np.random.default_rng(0)
    columns: dict[str, list[object]] = {
        "shard": ["made up"] * ROWS,
        "row": list(range(ROWS)),
        "offset": [0] * ROWS,
        "length": [0] * ROWS,
        "end": [False] * ROWS,
    }
    if card.spec.image:
        columns["image"] = [_picture(random) for _ in range(ROWS)]
    if card.tokenizer:
        tokenizer = Tokenizer.from_file(str(card.tokenizer))
        columns["text"] = [_caption(random, tokenizer, words=1 + 3 * i) for i in range(ROWS)]
    if audio := card.spec.audio:
        longest = min(audio.max_s, 12.0)
        columns["audio"] = [_chord(random, longest * (i + 1) / ROWS) for i in range(ROWS)]
    return table(columns, RECORDS)


def _picture(random: np.random.Generator) -> bytes:
    coarse = random.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC).save(out, "PNG")
    return out.getvalue()


def _caption(random: np.random.Generator, tokenizer: Tokenizer, words: int) -> bytes:
    ids = random.integers(0, tokenizer.get_vocab_size(), words).tolist()
    # Special tokens decode to nothing; the text must not be empty.
    return (tokenizer.decode(ids).strip() or "a").encode()


def _chord(random: np.random.Generator, seconds: float, rate: int = 16_000) -> bytes:
    time = np.arange(max(1, int(seconds * rate))) / rate
    tones = [np.sin(2 * np.pi * hz * time) for hz in random.uniform(100, 6_000, 3)]
    wave = 0.2 * np.sum(tones, axis=0) + 0.01 * random.standard_normal(len(time))
    out = io.BytesIO()
    soundfile.write(out, wave.clip(-1, 1), rate, format="WAV")
    return out.getvalue()
