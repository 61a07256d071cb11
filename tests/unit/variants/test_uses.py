"""Looking at the test records twice for the same decision needs a reason."""

import pytest
from support.linear import linear_bundle, write_labelled

from mmray.errors import UsageError
from mmray.evaluation.records import Records
from mmray.evaluation.splits import SPLITS
from mmray.variants.uses import Uses


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MMRAY_CACHE", str(tmp_path / "cache"))
    return write_labelled(tmp_path / "records", rows=40), linear_bundle(tmp_path / "bundle")


def uses(home, rows=1000):
    folder, bundle = home
    return Uses(bundle, Records([str(folder)], bundle, dict.fromkeys(SPLITS, rows)))


def test_the_first_use_is_free_and_the_second_asks_why(home):
    uses(home).check(["int8"], None)
    uses(home).note("int8", None)
    uses(home).check(["fp16"], None)
    with pytest.raises(UsageError, match=r"int8 was judged on these test records before, at 20.*--again"):
        uses(home).check(["fp16", "int8"], None)
    uses(home).check(["int8"], "the first run was cut off")
    uses(home).note("int8", "the first run was cut off")
    assert [(use["variant"], use["why"]) for use in uses(home).all()] == [
        ("int8", ""),
        ("int8", "the first run was cut off"),
    ]


def test_other_test_records_are_another_decision(home):
    uses(home).note("int8", None)
    uses(home, rows=20).check(["int8"], None)


def test_a_file_that_was_altered_counts_for_nothing(home, tmp_path):
    uses(home).note("int8", None)
    (file,) = (tmp_path / "cache/test-uses").iterdir()
    file.write_text(file.read_text().replace("int8", "int9"))
    assert uses(home).all() == []
