"""What the tests of imports start from."""

import pytest
from support.bundles import GOLDEN_ROWS, SPEC, records_table, small_tokenizer
from support.encoders import save_encoders

from mmray.batching import pack
from mmray.preprocess import Preprocessor


@pytest.fixture
def folder(tmp_path):
    save_encoders(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def feeds():
    """Records of every kind."""
    rows = [*GOLDEN_ROWS, {"text": b"a red red dog"}, GOLDEN_ROWS[0]]
    return pack(Preprocessor(SPEC, small_tokenizer())(records_table(rows)), SPEC)
