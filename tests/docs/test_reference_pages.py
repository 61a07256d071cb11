"""docs/config.md and docs/trouble.md name what is there: keys and defaults, kinds of rejects, messages."""

import re
from collections.abc import Iterator
from types import NoneType
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from support.scripts import ROOT

from mmray.config import RunConfig

CONFIG, TROUBLE = ((ROOT / "docs" / name).read_text() for name in ("config.md", "trouble.md"))
CODE = "".join(path.read_text() for path in (ROOT / "mmray").rglob("*.py"))
WITHOUT_DEFAULT = {"extensions"}  # too long for a cell


def keys(model: type[BaseModel], before: str = "") -> Iterator[tuple[str, object]]:
    for name, field in model.model_fields.items():
        kinds = [kind for kind in get_args(field.annotation) or [field.annotation] if kind is not NoneType]
        if isinstance(kinds[0], type) and issubclass(kinds[0], BaseModel):
            yield from keys(kinds[0], f"{before}{name}.")
            if field.default is not None:
                continue
        yield before + name, field.default


def on_page() -> dict[str, str]:
    """Default by key; a cell names several keys as `a.b`, `.c`."""
    found = {}
    for names, default in re.findall(r"^\| (`[^|]*`) \| ([^|]*?) ?\|", CONFIG, re.MULTILINE):
        first, *others = re.findall(r"`([^`]+)`", names)
        stem = first.rpartition(".")[0]
        for name in (first, *(stem + other if other.startswith(".") else other for other in others)):
            found[name] = default
    return found


def test_each_key_is_on_the_page_with_its_default():
    told = on_page()
    expected = dict(keys(RunConfig))
    assert told.keys() == expected.keys()
    for name, default in expected.items():
        if name.partition(".")[0] in WITHOUT_DEFAULT or default is PydanticUndefined:
            assert not told[name], name
        else:
            assert yaml.safe_load(told[name]) == (list(default) if isinstance(default, tuple) else default), (
                name
            )


def test_the_example_is_a_config():
    [example] = re.findall(r"```yaml\n(.*?)```", CONFIG, re.DOTALL)
    assert RunConfig.model_validate(yaml.safe_load(example)).limits.audio_s == 60


@pytest.mark.parametrize("heading", ["Many rejects", "It does not start"])
def test_what_a_table_names_is_said_by_the_code(heading):
    section = TROUBLE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]*`) \|", section, re.MULTILINE)
    named = [word for cell in cells for word in re.findall(r"`([^`]+)`", cell)]
    assert len(named) >= 6
    for word in named:
        for part in word.split("…"):
            assert part.strip(" ,") in CODE, word
