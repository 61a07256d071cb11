"""What a bundle is built from, as a value, and whether it is already built. Never imports torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from mmray.bundle import Bundle
from mmray.errors import BundleError, ConfigError
from mmray.schema import MODALITIES, Modality
from mmray.sources import Shard

#: Raise it with every change of the code that changes what is built: bundles of the old one are built again.
REVISION = 2


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class Recipe(BaseModel):
    """How a bundle is made of shards and encoders."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    modalities: tuple[Modality, ...] = MODALITIES  # that the model takes
    least_records: int = Field(15, ge=5)  # labels that fewer records have are left out
    folds: int = Field(5, ge=2)  # of the cross-validation
    seed: int = 0  # of the folds

    def origin(self, shards: Sequence[Shard], encoders: str) -> dict[str, str]:
        """What goes into the bundle's manifest, and decides whether a bundle is the one that is wanted."""
        return {
            "recipe": self.model_dump_json(),
            "revision": str(REVISION),
            "encoders": encoders,
            "shards": str(len(shards)),
            "shards_sha256": _digest(*(shard.id for shard in shards)),
        }


def choose_modalities(names: Iterable[str]) -> tuple[Modality, ...]:
    """The named modalities, in the schema's order.

    Raises:
        ConfigError: a name that is none, or no name at all.
    """
    chosen = set(names)
    known = ", ".join(MODALITIES)
    if unknown := chosen - set(MODALITIES):
        raise ConfigError(f"unknown modality {min(unknown)!r}; choose from {known}")
    if not chosen:
        raise ConfigError(f"a model needs a modality; choose from {known}")
    return tuple(m for m in MODALITIES if m in chosen)


def find_built(output: Path, origin: dict[str, str]) -> Bundle | None:
    """The bundle at `output`, if it is whole and has just this origin."""
    try:
        bundle = Bundle.open(output)
        if bundle.manifest.origin != origin:
            return None
        bundle.verify()
    except BundleError:  # absent, broken or altered: building it is the remedy
        return None
    return bundle
