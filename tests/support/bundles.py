"""A small bundle: the graph of support.graphs, a tokenizer of a dozen words, golden outputs made by hand."""

import hashlib
import json
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from mmray.batching import pack
from mmray.bundle import MANIFEST, Bundle, Source, write_bundle
from mmray.preprocess import Preprocessor
from mmray.preprocess.spec import AudioSpec, ImageSpec, PreprocessSpec, TextSpec
from mmray.schema import RECORDS, table
from support.graphs import FEATURES, NAN_TOKEN, POISON_TOKEN, run_by_hand, write_graph
from support.media import clip, image_bytes

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "dog", "red", "blue", "number", "truncated"]
VOCABULARY = {word: i for i, word in enumerate(WORDS)} | {"nan": NAN_TOKEN, "poison": POISON_TOKEN}

SPEC = PreprocessSpec(
    image=ImageSpec(height=16, width=16),
    text=TextSpec(max_tokens=12),
    audio=AudioSpec(mel_bins=16, patch_frames=24, patch_hop=12, max_s=2),
)
LABELS = ("cat", "dog", "fish", "bird")


def write_tokenizer(path):
    """A tokenizer.json that splits at white space: [CLS] words [SEP]."""
    tokenizer = Tokenizer(WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    special = [(word, VOCABULARY[word]) for word in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    tokenizer.save(str(path))
    return path


def records_table(rows, shard="a.tar@1"):
    """RECORDS of rows given as {column: bytes}; `error` and `key` may be given, too."""
    defaults = {"shard": shard, "end": False, "offset": 0, "length": 512}
    numbered = [
        {**dict.fromkeys(RECORDS.names), **defaults, "row": i, "key": f"k{i}", **row}
        for i, row in enumerate(rows)
    ]
    return table({name: [row[name] for row in numbered] for name in RECORDS.names}, RECORDS)


GOLDEN_ROWS = (
    {"image": image_bytes(), "text": b"a red cat", "audio": clip(seconds=1.0)},
    {"image": image_bytes(colour=(0, 0, 0))},
    {"text": b"a blue dog"},
    {"audio": clip(hz=900)},
)


def make_bundle(folder, *, spec=SPEC, golden_scale=1.0, graph=None, **changes):
    """Write the bundle; `golden_scale` other than 1 gives it the golden outputs of another model."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(folder.parent / f"{folder.name}-tokenizer.json")
    records = records_table(GOLDEN_ROWS)
    feeds = pack(Preprocessor(spec, tokenizer)(records), spec)
    options = {
        "name": "tiny",
        "graph": graph or write_graph(folder.parent / f"{folder.name}.onnx", len(LABELS)),
        "spec": spec,
        "labels": LABELS,
        "features": FEATURES,
        "tokenizer": tokenizer,
        "golden_inputs": feeds,
        "golden_records": records,
        "scorecard": {"subsets": {}},
        "sources": [Source(name="none", version="1", file="none.bin", sha256="0" * 64, licence="CC0-1.0")],
        "origin": {"made_by": "tests"},
    }
    if "golden_outputs" not in changes:
        options["golden_outputs"] = run_by_hand(feeds, len(LABELS), golden_scale)
    return write_bundle(folder, **(options | changes))


@cache
def _home():
    return tempfile.TemporaryDirectory(prefix="mmray-tests-")  # goes with the process


@cache
def small_tokenizer():
    """Path of a tokenizer.json that every test may read."""
    return write_tokenizer(Path(_home().name) / "tokenizer.json")


@cache
def small_bundle():
    """One small bundle for all tests; whoever alters it copies it first."""
    return make_bundle(Path(_home().name) / "small")


@cache
def latin_bundle():
    """The small bundle, whose text encoder states that it reads Latin letters alone."""
    text = SPEC.text.model_copy(update={"scripts": ("Latn",)})
    return make_bundle(Path(_home().name) / "latin", spec=SPEC.model_copy(update={"text": text}))


def reseal(bundle):
    """The bundle with the checksums of what its files hold now, as if it had been built so."""
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    there = [file for file in bundle.path.rglob("*") if file.is_file() and file.name != MANIFEST]
    manifest["files"] = {
        str(file.relative_to(bundle.path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in there
    }
    (bundle.path / MANIFEST).write_text(json.dumps(manifest))
    return Bundle.open(bundle.path)


def same_feeds(a, b):
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and np.array_equal(a[name], b[name]) for name in a
    )
