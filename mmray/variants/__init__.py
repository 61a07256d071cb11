"""Variants of a bundle's graph, and the gate that each must pass: `mmray optimize`.

`optimize` makes the steps of a recipe one after the other. `quantize/` writes graphs in lower precision,
`cascades/` cuts them into stages and chooses thresholds, `gate/` compares decisions with the parent's.
"""

from mmray.variants.make import optimize
from mmray.variants.steps import VariantRecipe, load_recipe

__all__ = ["VariantRecipe", "load_recipe", "optimize"]
