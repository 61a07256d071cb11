"""Whether a bundle is already built: the same shards, recipe and encoders, and every file as it was."""

import subprocess
import sys

import pytest

from mmray.errors import ConfigError
from mmray.importing.recipe import Recipe, choose_modalities, find_built
from mmray.models.encoders import tiny_encoders
from mmray.sources import Shard, list_shards


def origin_of(shards, **changes):
    identity = tiny_encoders([str(shards)]).identity
    return Recipe(**changes).origin(list_shards([str(shards)]), identity)


def test_a_bundle_of_the_same_origin_is_found(shards, bundle):
    found = find_built(bundle.path, origin_of(shards))
    assert found is not None
    assert found.digest == bundle.digest


def test_other_choices_shards_or_encoders_are_another_origin(shards, bundle):
    assert find_built(bundle.path, origin_of(shards, seed=1)) is None
    assert find_built(bundle.path, origin_of(shards) | {"encoders": "others"}) is None
    listed = list_shards([str(shards)])
    more = [*listed, Shard("train-9.tar@10240", "/nowhere", 10240)]
    assert Recipe().origin(more, "e")["shards_sha256"] != Recipe().origin(listed, "e")["shards_sha256"]


@pytest.mark.parametrize("damage", ["absent", "altered", "incomplete"])
def test_what_is_not_a_whole_bundle_is_built_again(shards, bundle, tmp_path, damage):
    copy = tmp_path / "copy"
    if damage != "absent":
        for name in ("manifest.json", *bundle.manifest.files):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((bundle.path / name).read_bytes())
        assert find_built(copy, origin_of(shards)) is not None
    if damage == "altered":
        (copy / "scorecard.json").write_text("{}")
    if damage == "incomplete":
        (copy / "golden.npz").unlink()
    assert find_built(copy, origin_of(shards)) is None


def test_modalities_are_put_in_the_schema_s_order_and_checked():
    assert choose_modalities(["audio", "image", "audio"]) == ("image", "audio")
    with pytest.raises(ConfigError, match="unknown modality 'vidoe'; choose from image, text, audio"):
        choose_modalities(["image", "vidoe"])
    with pytest.raises(ConfigError, match="no modality is named"):
        choose_modalities([])


def test_asking_needs_no_torch():
    """`jobs/build_bundle.py` answers in a second or two where nothing is to be built."""
    code = "import sys, mmray.importing.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
