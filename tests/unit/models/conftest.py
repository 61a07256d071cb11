"""Published weights, where they are at hand or can be fetched."""

import pytest
from support.scripts import ROOT

from mmray.errors import UsageError
from mmray.models.pretrained import fetch


@pytest.fixture(scope="session")
def weights():
    """A function: path of a published file; skips the test where it cannot be fetched (no network)."""

    def path_of(wanted):
        try:
            return fetch(wanted, ROOT / "data/downloads")
        except UsageError as e:
            if "cannot download" in str(e):
                pytest.skip(str(e))
            raise

    return path_of
