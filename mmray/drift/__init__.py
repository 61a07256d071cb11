"""Whether records are still like those that a model was chosen with: told from counts, seldom falsely.

A bundle keeps a reference: how often each thing occurred that is watched (label, confidence, modalities,
length of text and sound, features) among records of its tune split. A run or a server counts the same things
of its own records and compares.
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
