"""`optimize` chooses a cascade by records that it is not judged on, or says why it does not."""

import numpy as np
import pytest
from support.linear import linear_bundle, write_labelled

from mmray.optimize.steps import VariantRecipe
from mmray.optimize.variants import optimize
from mmray.predictor import Predictor, open_preprocessor
from mmray.sources import ReadOptions, list_shards, read


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A bundle without evidence of its own, records to judge it on, and others."""
    folder = tmp_path_factory.mktemp("staged")
    write_labelled(folder / "held-out", seed=1)
    write_labelled(folder / "others", rows=400, seed=2)
    return folder, linear_bundle(folder / "bundle")


def attempt(home, output, *, slice_loss=0.05, **step):
    """The new bundle, the cascade's entry in its scorecard, and what was said."""
    folder, parent = home
    recipe = VariantRecipe.model_validate(
        {
            "held_out": {"input": str(folder / "held-out")},
            "thresholds": {
                "agreement": 0.5,
                "slice_agreement": 0.5,
                "divergence": 5,
                "accuracy_loss": 1,
                "slice_accuracy_loss": slice_loss,
            },
            "steps": [{"cascade": step}],
            "timing_rounds": 0,
        }
    )
    said = []
    bundle = optimize(parent, recipe, output, say=said.append)
    return bundle, bundle.scorecard["variants"]["cascade"], "\n".join(said)


def others(home):
    return {"input": [str(home[0] / "others")]}


def test_a_cascade_is_chosen_cut_judged_and_runs(home, tmp_path):
    bundle, card, said = attempt(
        home, tmp_path / "out", slice_loss=0.3, disagreement=0.03, evidence=others(home)
    )
    assert card["passed"], card["reason"]
    chosen = card["cascade"]["chosen"]
    assert chosen["bound"] <= 0.03
    assert chosen["early"] > 0.1
    assert "leave early" in said
    predict, preprocess = Predictor(bundle, variant="cascade", provider="cpu"), open_preprocessor(bundle)
    (shard,) = list_shards([str(home[0] / "held-out")])
    stages = np.concatenate(
        [
            np.array(predict(preprocess(block, predict.later), preprocess.complete)["stage"].to_pylist())
            for block in read(shard, ReadOptions())
        ]
    )
    assert len(set(stages.tolist())) > 1


def test_a_generous_budget_still_has_to_pass_the_gate(home, tmp_path):
    bundle, card, _ = attempt(home, tmp_path / "out", disagreement=0.3, evidence=others(home))
    assert "label fish: accuracy falls" in card["reason"]
    assert bundle.passing() == ["fp32"]


def test_records_that_it_is_judged_on_are_no_evidence(home, tmp_path):
    held_out = {"input": [str(home[0] / "held-out")]}
    bundle, card, _ = attempt(home, tmp_path / "out", disagreement=0.3, evidence=held_out)
    assert "is held out and also used for evidence" in card["reason"]
    assert "cascade" not in bundle.manifest.variants


def test_without_evidence_the_remedy_is_named(home, tmp_path):
    _, card, _ = attempt(home, tmp_path / "out", disagreement=0.3)
    assert "has no evidence.npz; build it again, or give other records" in card["reason"]


def test_a_budget_that_cannot_be_shown_is_refused_with_the_figures(home, tmp_path):
    _, card, _ = attempt(home, tmp_path / "out", disagreement=0.001, evidence=others(home))
    assert "cannot show that at most 0.10% are harmed" in card["reason"]
