"""ONNX graphs that take packed modalities: exported from torch, cleaned, and checked against their model."""

from mmray.graphs.cases import batch_cases, golden_records, keep, mixed_rows
from mmray.graphs.cleaning import clean, needed, taken_by
from mmray.graphs.export import OPSET, export_graph
from mmray.graphs.parity import Reference, check_parity, compare_with, with_blank_rows

__all__ = [
    "OPSET",
    "Reference",
    "batch_cases",
    "check_parity",
    "clean",
    "compare_with",
    "export_graph",
    "golden_records",
    "keep",
    "mixed_rows",
    "needed",
    "taken_by",
    "with_blank_rows",
]
