"""Drift: whether records are still like those that a model was chosen with. Compares counts.

A bundle keeps a reference: how often each watched value (label, confidence, modalities, length of text and
sound, features) occurred among the records of its tune split. A run or a server counts the same values of its
own records and compares. False alarms are rare (`mmray.drift.watch`).
"""

from mmray.drift.reference import REFERENCE, Reference, Sketch, VariantReference, reference_of
from mmray.drift.seen import UNWATCHED, Seen, Watcher
from mmray.drift.seen import Batch as SeenBatch
from mmray.drift.values import values_of
from mmray.drift.watch import ALPHA, Alarm, Drift, Watch
from mmray.drift.window import Counts, Sketcher

__all__ = [
    "ALPHA",
    "REFERENCE",
    "UNWATCHED",
    "Alarm",
    "Counts",
    "Drift",
    "Reference",
    "Seen",
    "SeenBatch",
    "Sketch",
    "Sketcher",
    "VariantReference",
    "Watch",
    "Watcher",
    "reference_of",
    "values_of",
]
