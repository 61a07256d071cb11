"""Alignment of modalities that were recorded separately.

Two uses. In a run, `Aligner` reads the times in a record and finds the part of its audio and the caption that
belong to its image. Before a run, `detect`, `clock` and `join` make such records from streams with separate
clocks. Decodes no members; that is done by preprocessing.
"""

from mmray.align.record import Aligner, Region, Step
from mmray.align.spec import AlignSpec
from mmray.align.times import OutOfStep

__all__ = ["AlignSpec", "Aligner", "OutOfStep", "Region", "Step"]
