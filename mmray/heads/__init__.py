"""A linear head over frozen encoders: features of labelled records, training, and scores by modality."""

from mmray.heads.examples import Encoded, Examples, encode
from mmray.heads.scores import cross_validate, head_outputs, score_subsets
from mmray.heads.train import TrainedHead, train_head

__all__ = [
    "Encoded",
    "Examples",
    "TrainedHead",
    "cross_validate",
    "encode",
    "head_outputs",
    "score_subsets",
    "train_head",
]
