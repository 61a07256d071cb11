"""Imports models as bundles: torch modules, ONNX files, `transformers` directories.

`build_bundle` makes one from published encoders and trains the head. In every case the graph takes packed
modalities, and a bundle is written only after its outputs were compared with the model's. Modules that need
torch are imported at first use.
"""

from typing import TYPE_CHECKING

from mmray.importing.card import Card
from mmray.importing.description import Description, read_description
from mmray.importing.from_directory import describe_directory, fetch_from_hub, is_hub_name, parse_labels
from mmray.importing.recipe import Recipe, choose_modalities, find_built
from mmray.lazy import lazily

if TYPE_CHECKING:
    from mmray.importing.build import build_bundle as build_bundle
    from mmray.importing.from_onnx import import_onnx as import_onnx
    from mmray.importing.from_torch import import_torch as import_torch
    from mmray.importing.from_transformers import import_transformers as import_transformers

_PLACES = {
    "build_bundle": "mmray.importing.build",
    "import_onnx": "mmray.importing.from_onnx",
    "import_torch": "mmray.importing.from_torch",
    "import_transformers": "mmray.importing.from_transformers",
}
__all__ = [
    "Card",
    "Description",
    "Recipe",
    "choose_modalities",
    "describe_directory",
    "fetch_from_hub",
    "find_built",
    "is_hub_name",
    "parse_labels",
    "read_description",
    *_PLACES,
]
__getattr__ = lazily(__name__, _PLACES)
