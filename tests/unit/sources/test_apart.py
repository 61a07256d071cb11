"""What is written is never among what is read."""

import pytest

from mmray.errors import OutputError
from mmray.sources.apart import check_apart

FOLDERS = ("parts", "rejects")


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "data/a").mkdir(parents=True)
    (tmp_path / "link").symlink_to("data/a")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("input", "output"),
    [
        ("data", "data/out"),
        ("data", "data"),
        ("data", "link/out"),
        ("link", "data/a/out"),
        ("data/../data/", "./data/a/b/c"),
        ("{data,other}", "other/out"),
        ("data/a/../*/*/*.parquet", "data/out"),
        ("data/out/parts/*.parquet", "data/out"),
        ("data/out/rejects", "data/out"),
        ("data/out/parts/0.parquet", "data/out"),
        ("s3://b/in?region=x&endpoint_override=h:1", "s3://b/in/out?region=x"),
        ("s3://b/?region=x", "s3://b/out?region=x&scheme=http"),
    ],
)
def test_an_output_in_the_input_is_refused(place, input, output):
    with pytest.raises(OutputError, match="choose another --output"):
        check_apart(["elsewhere", input], output, FOLDERS)


@pytest.mark.parametrize(
    ("input", "output"),
    [
        ("data", "out"),
        ("data", "data-out"),
        ("data/*.tar", "data/out"),  # takes none of what is written
        ("data/{a,b}.tar", "data/out"),
        ("data/in", "data"),
        ("s3://b/in?region=x", "s3://b/out?region=x"),
        ("s3://b/in?region=x&endpoint_override=h:1", "s3://b/in/out?region=x&endpoint_override=h:2"),
        ("s3://b/in?region=x", "b/in/out"),
    ],
)
def test_any_other_is_not(place, input, output):
    check_apart([input], output, FOLDERS)
