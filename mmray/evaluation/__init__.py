"""What a model answers to records of a known split, and how often it is right.

Import, variants and training all use it, so they count in the same way.
"""

from mmray.evaluation.outputs import LabelledTensors, Outputs, Runs, run_outputs, whole_outputs
from mmray.evaluation.records import Records
from mmray.evaluation.reference import bundle_reference, reference_from
from mmray.evaluation.selective import NOTHING, Judged, judge_selective
from mmray.evaluation.splits import SPLITS, Assigned, Split, assign, group_of
from mmray.evaluation.temperatures import Error, calibration_error, fit_temperature, fit_temperatures

__all__ = [
    "NOTHING",
    "SPLITS",
    "Assigned",
    "Error",
    "Judged",
    "LabelledTensors",
    "Outputs",
    "Records",
    "Runs",
    "Split",
    "assign",
    "bundle_reference",
    "calibration_error",
    "fit_temperature",
    "fit_temperatures",
    "group_of",
    "judge_selective",
    "reference_from",
    "run_outputs",
    "whole_outputs",
]
