"""The bundle: a directory that holds everything a prediction depends on, and proves that it is unaltered.

Layout: manifest.json names every other file with its sha256; variants/*.onnx are the compiled forms of one
model; golden.npz holds inputs (in/*) and the outputs that they must give (out/* of fp32, out/VARIANT/* of any
other); golden.parquet the raw records that some of those inputs were made of; scorecard.json says how good
each variant is; reference.json, if there, what records are compared with (`mmray.drift`). The bundle's digest
is the sha256 of manifest.json.
Nothing in a bundle is ever unpickled.
"""

from mmray.bundle.manifest import (
    FP32,
    GOLDEN,
    MANIFEST,
    RECORDS,
    SCORECARD,
    TOKENIZER,
    Cascade,
    CascadeStage,
    Exit,
    Selective,
    Source,
    Variant,
)
from mmray.bundle.opened import Bundle
from mmray.bundle.written import NewVariant, check_replaceable, extend_bundle, write_bundle

__all__ = [
    "FP32",
    "GOLDEN",
    "MANIFEST",
    "RECORDS",
    "SCORECARD",
    "TOKENIZER",
    "Bundle",
    "Cascade",
    "CascadeStage",
    "Exit",
    "NewVariant",
    "Selective",
    "Source",
    "Variant",
    "check_replaceable",
    "extend_bundle",
    "write_bundle",
]
