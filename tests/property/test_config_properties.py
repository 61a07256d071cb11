"""No typing error in a key goes unnoticed."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmray.config import Extensions, RunConfig, load_config
from mmray.errors import ConfigError
from mmray.preprocess.spec import Limits

NEEDED = {"input": ("data",), "bundle": "b", "output": "o"}
GROUPS = {"": RunConfig, "limits.": Limits, "extensions.": Extensions}
KEYS = [(prefix, name) for prefix, model in GROUPS.items() for name in model.model_fields]


@st.composite
def typing_errors(draw):
    """A key with one letter left out, doubled, replaced, swapped or put in."""
    prefix, name = draw(st.sampled_from(KEYS))
    at = draw(st.integers(0, len(name) - 1))
    letter = draw(st.sampled_from("aeiou_xstn"))
    head, it, tail = name[:at], name[at], name[at + 1 :]
    return prefix, draw(
        st.sampled_from(
            [
                head + tail,
                head + it + it + tail,
                head + letter + tail,
                head + tail[:1] + it + tail[1:],
                name + letter,
            ]
        )
    )


@settings(deadline=None, max_examples=60)
@given(typing_errors(), st.booleans())
def test_a_mistyped_key_is_refused_with_a_key_that_exists(typo, nested):
    prefix, name = typo
    known = GROUPS[prefix].model_fields
    if name in known or not name:
        return
    values = {"limits": {name: 1}} if prefix == "limits." and nested else None
    assignments = [] if values else [f"{prefix}{name}=1"]
    with pytest.raises(ConfigError) as e:
        load_config(None, NEEDED | (values or {}), assignments)
    suggestion = re.search(r"unknown key '(.+)' \(did you mean '(.+)'\?\)", str(e.value))
    assert suggestion, str(e.value)
    assert suggestion[1] == prefix + name
    assert suggestion[2].startswith(prefix)
    assert suggestion[2].removeprefix(prefix) in known
