"""One command makes a recipe's variants: what passed may be used, what failed is refused with its reason."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from support.bundles import make_bundle, reseal
from support.linear import linear_bundle, with_near_zero_scale, write_labelled
from support.racing import convolved
from support.tars import write_shard

from mmray.bundle import Bundle
from mmray.cli.optimizing import optimize_bundle
from mmray.engine import Engine
from mmray.engine.cpu import needs_exact_int8
from mmray.errors import AuditError, BundleError, ConfigError, EngineError, UsageError
from mmray.predictor import Predictor, open_preprocessor
from mmray.sources import ReadOptions, list_shards, read
from mmray.variants.make import optimize
from mmray.variants.steps import load_recipe

STEPS = [{"half": None}, {"int8": {"method": "dynamic"}}, {"int8": {"method": "static"}}]
# What 120 records can show.
SOUND = {
    **{"agreement": 0.9, "accuracy_loss": 0.1, "slice_agreement": 0.75, "slice_accuracy_loss": 0.3},
    "least_groups": 30,
}
NAMES = ["fp16", "int8-dynamic", "int8-static"]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Directory of 120 records of test and of tune, and 80 of train."""
    folder = write_labelled(tmp_path_factory.mktemp("records"))
    write_labelled(folder, split="tune", seed=5)
    return write_labelled(folder, rows=80, split="train", seed=4)


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    return linear_bundle(tmp_path_factory.mktemp("linear") / "bundle")


@pytest.fixture(scope="module")
def ruined(tmp_path_factory):
    """A bundle whose model is as good as the other one, but not to be quantized."""
    folder = tmp_path_factory.mktemp("ruined")
    sound = linear_bundle(folder / "sound")
    onnx.save(with_near_zero_scale(onnx.load(sound.graph("fp32"))), folder / "ruined.onnx")
    outputs = Engine(folder / "ruined.onnx", provider="cpu")(sound.golden()[0])
    return make_bundle(folder / "bundle", graph=folder / "ruined.onnx", features=24, golden_outputs=outputs)


def write_recipe(path, records, **changes):
    values = {"input": str(records), "thresholds": SOUND, "batch_rows": 8, "timing_rounds": 0}
    path.write_text(yaml.safe_dump(values | changes))
    return path


def run(parent, records, folder, steps, **changes):
    said = []
    recipe = load_recipe(write_recipe(folder / "recipe.yaml", records, steps=steps, **changes))
    return optimize(parent, recipe, folder / "out", again="another test", say=said.append), said


@pytest.fixture(scope="module")
def made(parent, records, tmp_path_factory):
    """The bundle of three sound variants, and what was said meanwhile."""
    return run(parent, records, tmp_path_factory.mktemp("made"), STEPS, timing_rounds=1)


def test_sound_variants_are_in_the_new_bundle_and_the_parent_stays_as_it_is(made, parent):
    bundle, _ = made
    bundle.verify()
    parent.verify()
    assert bundle.passing() == list(bundle.manifest.variants) == ["fp32", *NAMES]
    assert sorted(bundle.reference.variants) == sorted(["fp32", *NAMES])
    assert bundle.manifest.parents == {parent.digest: "linear"}
    for name in NAMES:
        variant = bundle.manifest.variants[name]
        assert (variant.parent, variant.precision) == ("fp32", name.partition("-")[0])
    assert bundle.manifest.variants["int8-static"].how["method"] == "static"


def test_the_scorecard_says_of_each_variant_what_it_is_worth(made):
    bundle, _ = made
    cards = bundle.scorecard["variants"]
    assert list(cards) == ["fp32", *NAMES]
    for name, card in cards.items():
        assert (card["passed"], card["reason"]) == (True, "")
        assert 0.97 <= card["agreement"] <= 1
        assert 0.9 <= card["accuracy"] <= 1
        assert set(card["slices"]) >= {"image", "image+text+audio", "label cat"}
        assert card["size_bytes"] == bundle.graph(name).stat().st_size
        assert card["peak_memory_bytes"] > 20e6
        assert list(card["latency_ms"]) == ["batch_1", "batch_8"]
        assert all(ms > 0 for ms in card["latency_ms"].values())
        assert (card["verdict"], card["split"]) == ("passed", "test")
        assert (card["records"], card["groups"]) == (120, 80)
    assert cards["fp32"]["agreement"] == 1
    assert bundle.scorecard["splits"]["tune"] == {"records": 120, "groups": 80}


def test_the_test_records_are_looked_at_once_a_variant_unless_somebody_says_why(
    parent, records, tmp_path, monkeypatch
):
    monkeypatch.setenv("MMRAY_CACHE", str(tmp_path / "cache"))
    recipe = load_recipe(write_recipe(tmp_path / "recipe.yaml", records, steps=STEPS[1:2]))
    first = optimize(parent, recipe, tmp_path / "first", say=lambda _: None)
    assert [use["variant"] for use in first.scorecard["test_uses"]] == ["int8-dynamic"]
    said = []
    with pytest.raises(UsageError, match="int8-dynamic was judged on these test records before"):
        optimize(parent, recipe, tmp_path / "second", say=said.append)
    assert not said, "not only after minutes of work"
    second = optimize(parent, recipe, tmp_path / "second", again="to see the figures", say=said.append)
    assert [use["why"] for use in second.scorecard["test_uses"]] == ["", "to see the figures"]


def test_what_fails_on_tune_never_sees_the_test_records(ruined, records, tmp_path, monkeypatch):
    monkeypatch.setenv("MMRAY_CACHE", str(tmp_path / "cache"))
    bundle, said = run(ruined, records, tmp_path, STEPS[1:2])
    card = bundle.scorecard["variants"]["int8-dynamic"]
    assert (card["verdict"], card["split"]) == ("failed", "tune")
    assert bundle.scorecard["test_uses"] == []
    assert any("int8-dynamic: failed on tune: decisions agree on" in line for line in said)


def test_each_variant_predicts_and_reproduces_its_own_golden_outputs(made, records):
    bundle, _ = made
    preprocess = open_preprocessor(bundle)
    (shard,) = list_shards([str(records / "test-*.tar")])
    tensors = preprocess(next(iter(read(shard, ReadOptions(block_rows=120)))))
    expected = Predictor(bundle, variant="fp32", provider="cpu")(tensors)["label"].to_pylist()
    for name in NAMES:
        predictor = Predictor(bundle, variant=name, provider="cpu")
        assert predictor.golden_difference < 1e-6
        found = predictor(tensors)
        assert set(found["variant"].to_pylist()) == {name}
        assert np.mean([a == b for a, b in zip(found["label"].to_pylist(), expected, strict=True)]) > 0.97
    fp32, int8 = (bundle.golden(name)[1]["scores"] for name in ("fp32", "int8-dynamic"))
    assert np.abs(fp32 - int8).max() > 1e-4, "int8 would pass by fp32's golden outputs, too: nothing is shown"


def test_another_machine_may_round_a_variants_scores_in_another_way_but_not_be_far_off(made, tmp_path):
    """Other kernels move quantized scores by hundredths; a graph that is another model is refused."""
    bundle, _ = made
    assert bundle.manifest.variants["fp32"].golden_tolerance == 1e-3
    assert 0.02 <= bundle.manifest.variants["int8-static"].golden_tolerance < 0.2
    shutil.copytree(bundle.path, tmp_path / "copy")
    altered = Bundle.open(tmp_path / "copy")
    graph = altered.graph("int8-static")
    model = onnx.load(graph)
    last = next(node for node in model.graph.node if "logits" in node.output)
    last.op_type = "Sub"
    onnx.save(model, graph)
    with pytest.raises(EngineError, match="off its golden scores"):
        Predictor(reseal(altered), variant="int8-static", provider="cpu")


def test_every_step_is_said_with_its_seconds(made):
    _, said = made
    for name in ("fp32", *NAMES):
        assert any(line[:6].strip().replace(".", "").isdigit() and f"s  {name}: " in line for line in said)


def test_a_variant_that_fails_its_gate_is_left_out_with_its_reason_and_stops_no_other(
    ruined, records, tmp_path
):
    bundle, said = run(
        ruined, records, tmp_path, [{"int8": {"method": "dynamic"}}, {"half": {}, "name": "tiny"}]
    )
    assert bundle.passing() == list(bundle.manifest.variants) == ["fp32", "tiny"]
    assert not list(bundle.path.glob("variants/int8*"))
    card = bundle.scorecard["variants"]["int8-dynamic"]
    assert not card["passed"]
    assert "decisions agree on" in card["reason"]
    assert card["size_bytes"] > 0
    assert "latency_ms" not in card
    assert any("int8-dynamic: failed on tune: decisions agree on" in line for line in said)
    with pytest.raises(BundleError, match="'int8-dynamic' failed its gate: decisions agree on"):
        Predictor(bundle, variant="int8-dynamic")


def test_the_graph_that_failed_is_kept_where_the_recipe_says_so_and_still_refused(ruined, records, tmp_path):
    bundle, _ = run(ruined, records, tmp_path, [{"int8": {"method": "dynamic"}}], keep_failed=True)
    assert bundle.graph("int8-dynamic").is_file()
    bundle.verify()
    with pytest.raises(BundleError, match="failed its gate"):
        bundle.check_variant("int8-dynamic")


def test_a_step_that_breaks_is_a_reason_and_stops_no_other(tmp_path, records):
    """A record on which the model itself fails, among those for calibration."""
    parent = make_bundle(tmp_path / "parent")
    (tmp_path / "calibration").mkdir()
    poison = {"txt": b"a poison", "json": b'{"split": "train"}'}
    write_shard(tmp_path / "calibration/s.tar", [("a", poison)])
    inputs = [str(records), str(tmp_path / "calibration")]
    steps = [{"int8": {"method": "static"}}, {"half": {}}]
    loose = {"agreement": 0, "slice_agreement": 0, "accuracy_loss": 1, "slice_accuracy_loss": 1}
    bundle, _ = run(parent, records, tmp_path, steps, input=inputs, thresholds=loose)
    assert bundle.passing() == ["fp32", "fp16"]
    card = bundle.scorecard["variants"]["int8-static"]
    assert card.keys() == {"passed", "reason"}
    assert card["reason"].startswith("cannot be made: ")


@pytest.mark.skipif(needs_exact_int8(), reason="this CPU has no fast int8")
def test_the_best_form_of_each_modality_is_found_and_said(parent, records, tmp_path):
    graph = convolved(parent.graph("fp32"), tmp_path / "convolved.onnx")
    outputs = Engine(graph, provider="cpu")(parent.golden()[0])
    heavy = make_bundle(tmp_path / "heavy", graph=graph, features=24, golden_outputs=outputs)
    bundle, said = run(heavy, records, tmp_path, [{"int8": None}])
    assert bundle.passing() == ["fp32", "int8-best"]
    forms = bundle.manifest.variants["int8-best"].how["forms"]
    assert forms.startswith("image static (float ")
    assert any("int8-best: passed, agreement 1.000" in line and forms in line for line in said)


def test_records_without_labels_are_enough(parent, tmp_path):
    """Decisions can be compared without anybody knowing the right ones."""
    records = write_labelled(tmp_path / "records", rows=300, labels=False)
    loose = {**SOUND, "agreement": 0.8}
    said = run(parent, records, tmp_path, [{"int8": {"method": "dynamic"}}], thresholds=loose)[1]
    card = Bundle.open(tmp_path / "out").scorecard["variants"]["int8-dynamic"]
    assert card["passed"], card["reason"]
    assert "accuracy" not in card
    assert card["agreement"] >= 0.97
    assert any("(0 with a known label)" in line for line in said)


def test_a_model_without_labels_is_judged_by_which_records_it_finds_alike(parent, records, tmp_path):
    bare = make_bundle(
        tmp_path / "bare",
        graph=parent.graph("fp32"),
        labels=(),
        features=24,
        golden_outputs=parent.golden()[1],
    )
    bundle, _ = run(bare, records, tmp_path, [{"int8": {"method": "dynamic"}}])
    card = bundle.scorecard["variants"]["int8-dynamic"]
    assert "accuracy" not in card
    assert {name for name in card["slices"] if name.startswith("label")} == set()
    assert card["agreement"] > 0.9


def test_too_few_test_records_are_not_enough_and_the_variant_is_not_used(parent, records, tmp_path):
    few = write_labelled(tmp_path / "few", rows=20)
    inputs = [str(few), *(str(records / f"{split}-000000.tar") for split in ("train", "tune"))]
    bundle, said = run(parent, records, tmp_path, STEPS[:1], input=inputs)
    card = bundle.scorecard["variants"]["fp16"]
    assert (card["verdict"], card["split"], card["passed"]) == ("not enough records", "test", False)
    assert "at least 30 groups are needed (thresholds.least_groups)" in card["reason"]
    assert any("fp16: not enough records: " in line for line in said)
    assert bundle.passing() == ["fp32"]
    with pytest.raises(BundleError, match="'fp16'"):
        Predictor(bundle, variant="fp16")


def test_the_parents_own_place_and_a_folder_of_something_else_are_refused(parent, records, tmp_path):
    recipe = load_recipe(write_recipe(tmp_path / "recipe.yaml", records, steps=STEPS))
    said = []
    with pytest.raises(BundleError, match="is the bundle to start from"):
        optimize(parent, recipe, parent.path, say=said.append)
    with pytest.raises(BundleError, match="not a bundle"):
        optimize(parent, recipe, tmp_path, say=said.append)
    assert not said, "not only after minutes of work"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imput": "x"}, "unknown key 'imput' (did you mean 'input'?)"),
        ({"rows": {"tset": 3}}, "unknown key 'rows.tset' (did you mean 'rows.test'?)"),
        (
            {"thresholds": {"agrement": 1}},
            "unknown key 'thresholds.agrement' (did you mean 'thresholds.agreement'?)",
        ),
        ({"steps": [{"int9": {}}]}, "unknown key 'steps.0.int9' (did you mean 'steps.0.int8'?)"),
        ({"steps": [{"half": {}}, {"int8": {"metod": "static"}}]}, "unknown key 'steps.1.int8.metod'"),
        ({"steps": [{"int8": {"method": "magic"}}]}, "'steps.0.int8.method': input should be 'best'"),
        ({"steps": [{}]}, "'steps.0': a step is exactly one of half, int8, given and cascade, not 0 of them"),
        ({"steps": [{"half": {}, "int8": {"method": "static"}}]}, "not 2 of them"),
        ({"steps": [{"half": {}}, {"half": {}}]}, "'steps.1': there is a variant 'fp16' already"),
        ({"steps": [{"half": {}, "name": "fp32"}]}, "there is a variant 'fp32' already"),
        ({"steps": [{"half": {}, "name": "../x"}]}, "'steps.0.name': string should match pattern"),
        ({"steps": []}, "'steps': tuple should have at least 1 item"),
        ({"steps": [{"int8": {"method": "dynamic", "flavour": "tensorrt"}}]}, "set method: static"),
        ({"steps": [{"int8": {"flavour": "tensorrt"}}]}, "set method: static"),
        ({"steps": [{"int8": {"mixed": True}}]}, "'steps.0.int8': best has no mixed form"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused_by_file_and_key(tmp_path, changes, message):
    path = write_recipe(tmp_path / "recipe.yaml", tmp_path, **{"steps": STEPS} | changes)
    with pytest.raises(ConfigError) as e:
        load_recipe(path)
    assert str(e.value).startswith(f"{path}: ")
    assert message in str(e.value)


def test_the_recipe_of_the_stamps_is_a_recipe():
    recipe = load_recipe(Path(__file__).parents[3] / "jobs/configs/optimize.yaml")
    assert "int8-static-mixed" in [step.variant for step in recipe.steps]


def test_the_command_shows_what_it_made_and_fails_where_nothing_passed(
    parent, ruined, records, tmp_path, capsys
):
    recipe = write_recipe(tmp_path / "recipe.yaml", records, steps=[{"int8": {"method": "dynamic"}}])
    optimize_bundle(str(parent.path), recipe, tmp_path / "sound", "another test")
    shown = capsys.readouterr().out
    assert "int8-dynamic: passed, agreement 1.000 (at least 0.9" in shown
    last = [line.split()[:2] for line in shown.splitlines()[-2:]]
    assert last == [["fp32", "parent"], ["int8-dynamic", "passed"]]
    with pytest.raises(AuditError, match="none of the 1 variants passed its gate") as e:
        optimize_bundle(str(ruined.path), recipe, tmp_path / "ruined", "another test")
    assert e.value.exit_code == 1
    assert "int8-dynamic, failed: decisions agree on" in capsys.readouterr().out
    assert Bundle.open(tmp_path / "ruined").passing() == ["fp32"]


def mmray(*arguments):
    command = [str(Path(sys.executable).with_name("mmray")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 3)])
def test_a_signal_ends_the_command_in_whatever_step_it_is(parent, records, tmp_path, number, code):
    steps = [{"int8": {"method": "static"}, "name": f"v{i}"} for i in range(60)]
    recipe = write_recipe(tmp_path / "recipe.yaml", records, steps=steps)
    command = [str(Path(sys.executable).with_name("mmray")), "optimize", str(parent.path)]
    command += ["--recipe", str(recipe), "--output", str(tmp_path / "out"), "--again", "another test"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if "  v0: passed" in line:
                process.send_signal(number)
                break
        out, err = process.communicate()
    assert process.returncode == code, err
    assert "v59" not in out
    assert not (tmp_path / "out").exists()


def test_the_command_names_what_is_wrong_and_exits_with_2(parent, tmp_path):
    done = mmray("optimize", parent.path, "--recipe", tmp_path / "none.yaml", "--output", tmp_path / "out")
    assert done.returncode == 2
    assert "cannot read this config" in done.stderr
    assert not (tmp_path / "out").exists()
