"""The fastest setting that keeps within the budget is taken, and none that is not shown to."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.evidence import made_evidence

from mmray.errors import InputError
from mmray.stats.intervals import Clusters
from mmray.variants.cascades.costs import Costs, fit_costs
from mmray.variants.cascades.evidence import HALF, Evidence, subsets
from mmray.variants.cascades.evidence import modality_of as of
from mmray.variants.cascades.policy import Budget, choose_policy
from mmray.variants.cascades.trial import Setting, Trial, front, partitions
from mmray.variants.cascades.trial import settings as every_setting

MODALITIES = ("image", "text", "audio")
COSTS = Costs(0.1, {"image": 11.0, "text": 2.0, "audio": 5.0})
ONE_POINT = Budget(0.01, None)


def test_what_the_cheapest_modality_settles_leaves_after_it():
    policy = choose_policy(made_evidence(), COSTS, ONE_POINT)
    assert policy.chosen.setting.stages[0] == ("text",)
    assert policy.bound <= 0.01
    assert policy.chosen.early == pytest.approx(0.7, abs=0.03)
    assert policy.chosen.ms < 0.5 * (sum(COSTS.modality.values()))
    (rule,) = policy.exits[0].values()
    assert rule.threshold == policy.chosen.setting.thresholds[0]


def test_no_other_setting_within_the_budget_is_faster():
    evidence = made_evidence(rows=500, wrong=0.02)
    policy, trial = choose_policy(evidence, COSTS, Budget(0.05, None)), Trial(evidence, COSTS)
    clusters = Clusters(evidence.groups)
    for setting in every_setting(MODALITIES):
        point = trial.point(setting)
        if point.early and point.ms < policy.chosen.ms:
            right = trial.outcome(setting).decided == evidence.labels
            lost = (trial.whole == evidence.labels).astype(float) - right
            assert clusters.upper(lost, 0.95) > 0.05


def test_sure_but_wrong_answers_close_the_exit():
    evidence = made_evidence(wrong=0.05)
    sound = choose_policy(made_evidence(), COSTS, ONE_POINT)
    assert choose_policy(evidence, COSTS, ONE_POINT).chosen.early < 0.3 * sound.chosen.early


def test_a_larger_budget_is_never_slower():
    ms = [
        choose_policy(made_evidence(wrong=0.03), COSTS, Budget(loss, None)).chosen.ms
        for loss in (0.04, 0.08, 0.3)
    ]
    assert ms == sorted(ms, reverse=True)
    assert ms[-1] < ms[0]


def test_what_is_not_less_accurate_than_one_modality_may_be_less_accurate_than_all():
    """Sound alone is right in a fifth of the records: text for all is better than that, and faster."""
    evidence = made_evidence()
    policy = choose_policy(evidence, COSTS, Budget(0.0, None, "audio"))
    trial = Trial(evidence, COSTS)
    assert policy.bound <= 0
    assert policy.chosen.setting.thresholds[0] == 0
    assert trial.accuracy(trial.decided(("audio",))) < policy.chosen.accuracy < trial.accuracy(trial.whole)
    with pytest.raises(InputError, match="the model takes no smell, but image, text, audio"):
        choose_policy(evidence, COSTS, Budget(0.0, None, "smell"))


def test_records_that_lack_the_first_modality_go_on():
    evidence = made_evidence(rows=2000, without_text=200)
    setting = Setting((("text",), ("image", "audio")), (0.0,))
    found = Trial(evidence, COSTS).outcome(setting)
    assert (found.left == np.where(evidence.present[:, 1], 0, 1)).all()
    assert found.ms == pytest.approx(0.1 + 0.9 * 2.0 + 0.1 * (0.1 + 16.0))


def test_a_set_of_modalities_with_few_records_gets_no_exit():
    evidence = made_evidence(rows=2000, without_text=20)
    trial = Trial(evidence, COSTS)
    setting = Setting((("text", "audio"), ("image",)), (0.0,))
    assert list(trial.exits(setting)[0]) == ["text+audio"]
    assert (trial.outcome(setting).left[~evidence.present[:, 1]] == 1).all()


def test_a_budget_of_agreement_counts_every_decision_that_differs():
    made = made_evidence(wrong=0.02)
    unlabelled = Evidence(made.modalities, made.present, np.full(len(made), -1), made.groups, made.logits)
    policy = choose_policy(unlabelled, COSTS, Budget(None, 0.05))
    assert policy.chosen.agreement >= 0.95
    assert policy.chosen.accuracy == policy.chosen.agreement
    assert policy.chosen.early > 0.5
    with pytest.raises(InputError, match="needs labelled records"):
        choose_policy(unlabelled, COSTS, ONE_POINT)


@pytest.mark.parametrize("groups", [None, np.repeat(np.arange(100), 10).astype(str)])
def test_too_little_evidence_is_refused_with_the_figures(groups):
    """Records of one group count as one."""
    rows = 100 if groups is None else 1000
    with pytest.raises(
        InputError, match=rf"the best bound is .*%; {rows} records in 100 groups\); give more tuning"
    ):
        choose_policy(made_evidence(rows=rows, groups=groups), COSTS, ONE_POINT)


def test_of_one_modality_there_is_no_cascade():
    made = made_evidence(rows=50)
    alone = Evidence(("text",), made.present[:, 1:2], made.labels, made.groups, {"text": made.logits["text"]})
    with pytest.raises(InputError, match="two modalities or more"):
        choose_policy(alone, COSTS, ONE_POINT)


def test_the_curve_rises_and_every_setting_is_on_it_or_beaten():
    trial = Trial(made_evidence(rows=400, wrong=0.1), COSTS)
    points = [trial.point(setting) for setting in every_setting(MODALITIES)]
    curve = front(points)
    assert [p.ms for p in curve] == sorted({p.ms for p in curve})
    assert [p.accuracy for p in curve] == sorted({p.accuracy for p in curve})
    for point in points:
        assert any(c.ms <= point.ms and c.accuracy >= point.accuracy for c in curve)


@pytest.mark.parametrize(("looks", "count"), [(MODALITIES, 13), ((*MODALITIES, HALF), 31)])
def test_every_ordered_partition_is_tried_in_which_half_an_image_comes_before_the_whole(looks, count):
    found = partitions(looks)
    assert len(set(found)) == count
    for stages in found:
        assert sorted(m for stage in stages for m in stage) == sorted(looks)
        if HALF in looks:
            first, second = (next(s for s in stages if look in s) for look in (HALF, "image"))
            assert stages.index(first) < stages.index(second)


def with_half(evidence, seed=1, right=0.9):
    """Half an image says as much as all together, but for a share of the records."""
    random = np.random.default_rng(seed)
    rows = random.random(len(evidence)) < right
    full = evidence.logits["image+text+audio"]
    small = np.where(rows[:, None], full, np.roll(full, 1, axis=1) / 8)
    half = {name: small if "image" in name else values for name, values in evidence.logits.items()}
    return replace(evidence, half=half)


def test_half_an_image_is_looked_at_first_where_that_is_faster_and_good_enough():
    """The 30 % that text leaves open are answered by half the image, but for one in ten."""
    evidence = with_half(made_evidence())
    costs = Costs(0.1, COSTS.modality | {HALF: 3.0}, decoded_image=10.0)
    policy = choose_policy(evidence, costs, ONE_POINT)
    assert policy.chosen.setting.stages[:2] == (("text",), (HALF,))
    plain = choose_policy(replace(evidence, half=None), costs, ONE_POINT)
    assert policy.chosen.ms < 0.7 * plain.chosen.ms
    assert policy.tried < 20_000
    slow = replace(costs, modality=costs.modality | {HALF: 30.0})
    assert choose_policy(evidence, slow, ONE_POINT).chosen == plain.chosen


@settings(max_examples=15, deadline=None)
@given(
    present=st.lists(st.tuples(*[st.booleans()] * 3).filter(any), min_size=40, max_size=80),
    number=st.integers(0, 2000),
    seed=st.integers(0, 100),
)
def test_what_a_setting_does_is_what_each_record_would_do_by_itself(present, number, seed):
    made = made_evidence(rows=len(present), seed=seed)
    evidence = with_half(Evidence(MODALITIES, np.array(present), made.labels, made.groups, made.logits))
    costs = Costs(0.1, COSTS.modality | {HALF: 3.0}, decoded_image=9.0)
    trial = Trial(evidence, costs)
    every = list(trial.settings())
    setting = every[number * 7 % len(every)]
    found, exits = trial.outcome(setting), trial.exits(setting)
    ms = 0.0
    for i, flags in enumerate(present):
        has, seen = [m for m, flag in zip(MODALITIES, flags, strict=True) if flag], set()
        for number, stage in enumerate(setting.stages):
            paid = [
                9.0 if m == "image" and HALF in seen else costs.modality[m] for m in stage if of(m) in has
            ]
            ms += 0.1 + sum(paid)
            seen |= set(stage)
            name = "+".join(m for m in has if m in map(of, seen))
            answers = evidence.half if HALF in seen and "image" not in seen else evidence.logits
            is_last = number == len(setting.stages) - 1
            rule = None if is_last else exits[number].get(name)
            if rule or is_last:
                logits = answers[name][i] / (rule.temperature if rule else 1.0)
                sure = np.exp(logits - logits.max()).max() / np.exp(logits - logits.max()).sum()
                if is_last or sure >= rule.threshold:
                    assert (found.left[i], found.decided[i]) == (number, logits.argmax())
                    break
    assert found.ms == pytest.approx(ms / len(present))


@given(
    row=st.floats(0, 1),
    each=st.tuples(*[st.floats(0, 20)] * 3),
    shares=st.tuples(*[st.floats(0.1, 1)] * 3),
)
def test_costs_are_found_again_from_times_of_subsets(row, each, shares):
    share = dict(zip(MODALITIES, shares, strict=True))
    cost = dict(zip(MODALITIES, each, strict=True))
    times = {subset: row + sum(share[m] * cost[m] for m in subset) for subset in subsets(MODALITIES)}
    found = fit_costs(times, share)
    assert found.row == pytest.approx(row, abs=1e-6)
    assert [found.of(m) for m in MODALITIES] == pytest.approx(list(each), abs=1e-5)
