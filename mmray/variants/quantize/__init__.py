"""A float32 ONNX graph in lower precision: int8 by calibrated ranges or by row, and float16."""

from mmray.variants.quantize.calibrate import collect_ranges
from mmray.variants.quantize.draft import Draft, table_of
from mmray.variants.quantize.half import rehearse_half, to_half
from mmray.variants.quantize.int8 import to_dynamic_int8, to_int8, to_static_int8
from mmray.variants.quantize.moments import MOMENT_ROWS, collect_moments
from mmray.variants.quantize.rows import LEAST_STEP
from mmray.variants.quantize.targets import Site, sites
from mmray.variants.quantize.wide import pixels_of

__all__ = [
    "LEAST_STEP",
    "MOMENT_ROWS",
    "Draft",
    "Site",
    "collect_moments",
    "collect_ranges",
    "pixels_of",
    "rehearse_half",
    "sites",
    "table_of",
    "to_dynamic_int8",
    "to_half",
    "to_int8",
    "to_static_int8",
]
