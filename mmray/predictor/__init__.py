"""Records in, predictions out: the one path that the batch job, the server and a single call share.

`Read `Predictor` first. A table goes through one stage after the other (`stage`). Each stage runs batches
(`batches`), finds the cause of a failure (`blame`) and collects answers (`answers`). A share of a cascade's
early exits is run to the end and compared (`shadow`).
"""

from mmray.predictor.answers import Step
from mmray.predictor.opening import open_preprocessor
from mmray.predictor.predictor import Complete, Predictor

__all__ = ["Complete", "Predictor", "Step", "open_preprocessor"]
