"""Modalities that were recorded apart, brought into step.

Two uses. In a run, `Aligner` reads the times that a record states and says which part of its audio and which
caption belong to its image. Before a run, `detect`, `clock` and `join` make such records out of streams
that each have a clock of their own. Decodes no member; that is preprocessing's business.
"""

from mmray.align.record import Aligner, Region, Step
from mmray.align.spec import AlignSpec
from mmray.align.times import OutOfStep

__all__ = ["AlignSpec", "Aligner", "OutOfStep", "Region", "Step"]
