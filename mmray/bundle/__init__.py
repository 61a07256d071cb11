"""The bundle: a directory with everything that a prediction depends on, protected by checksums.

Layout: manifest.json names every other file with its sha256; variants/*.onnx are the compiled forms of one
    model; golden.npz has inputs (in/*) and their expected outputs (out/* of fp32, out/VARIANT/* of any
    other); golden.parquet has the raw records of some of those inputs; scorecard.json has the quality of each
    variant; reference.json (optional) is for drift detection (`mmray.drift`). The bundle's digest is the
    sha256 of manifest.json. Nothing in a bundle is ever unpickled.
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
