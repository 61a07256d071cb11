"""Losses, and how modalities are hidden."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from mmray.training.objective import Objective, divergence, hide
from mmray.training.recipe import Distil, TrainRecipe


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1), st.floats(0, 0.99))
def test_hiding_leaves_a_record_something_and_adds_nothing(rows, chance):
    present = torch.tensor(rows)
    kept = hide(present, chance, torch.Generator().manual_seed(1))
    assert not (kept & ~present).any()
    assert (kept.any(dim=1) == present.any(dim=1)).all()


def test_hiding_happens_as_often_as_is_asked():
    present = torch.ones(20_000, 3, dtype=torch.bool)
    kept = hide(present, 0.4, torch.Generator().manual_seed(1))
    # Of a record that would lose all three (.4 ** 3), one is given back.
    assert kept.float().mean().item() == pytest.approx(0.6 + 0.4**3 / 3, abs=0.01)


def test_the_divergence_is_that_of_its_definition():
    student, teacher = torch.randn(4, 5), torch.randn(4, 5)
    p, q = (teacher / 3).softmax(1), (student / 3).softmax(1)
    expected = 9 * (p * (p / q).log()).sum(1).mean()
    assert divergence(student, teacher, 3.0).item() == pytest.approx(expected.item(), rel=1e-5)
    assert divergence(teacher, teacher, 3.0).item() == pytest.approx(0, abs=1e-6)


def test_without_a_teacher_only_labels_count():
    logits, targets = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    objective = Objective(TrainRecipe(input=("a",), label_smoothing=0), features=4, taught=0)
    parts = objective([logits, logits], torch.randn(6, 4), targets, {})
    assert parts.keys() == {"labels"}
    assert parts["labels"].item() == pytest.approx(F.cross_entropy(logits, targets).item())


def test_features_are_brought_near_the_teachers():
    recipe = TrainRecipe(input=("a",), distil=Distil(teacher="b", features=0.5))
    objective = Objective(recipe, features=4, taught=7)
    features, targets = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    wanted = objective.project(features).detach()
    teacher = {"logits": torch.randn(6, 3), "features": wanted + 2}
    parts = objective([torch.randn(6, 3)], features, targets, teacher)
    assert parts.keys() == {"labels", "logits", "features"}
    assert parts["features"].item() == pytest.approx(0.5 * 4)
