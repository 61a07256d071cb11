"""Several Ray Train workers train one model."""

import pytest

from mmray.training.recipe import TrainRecipe
from mmray.training.run import Places, train_bundle


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_train_one_model(shards, tmp_path):
    recipe = TrainRecipe.model_validate(
        {
            "input": [str(shards)],
            "image": None,
            "audio": None,
            "text": {"encoder": "small", "pretrained": False},
            "epochs": 6,
            "batch_rows": 16,
            "learning_rate": 0.01,
            "least_records": 5,
        }
    )
    places = Places(tmp_path / "work", tmp_path / "prepared", tmp_path)
    bundle = train_bundle(recipe, tmp_path / "two", places, workers=2, say=print)
    history = bundle.scorecard["training"]["history"]
    assert len(history) == 6
    assert history[-1]["loss"]["labels"] < 0.9 * history[0]["loss"]["labels"]
