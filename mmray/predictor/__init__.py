"""Records in, predictions out: the one path that the batch job, the server and a single call share.

`Predictor` is the page to read first. A table goes through one stage after the other (`stage`), each of which
runs batches (`batches`), finds out whose fault a failure is (`blame`) and lays down answers (`answers`); a
share of those that a cascade let go early is run to the end and compared (`shadow`).
"""

from mmray.predictor.answers import Step
from mmray.predictor.opening import open_preprocessor
from mmray.predictor.predictor import Complete, Predictor

__all__ = ["Complete", "Predictor", "Step", "open_preprocessor"]
