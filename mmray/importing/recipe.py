"""The recipe of a bundle, and whether the bundle is already built. Never imports torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from mmray.bundle import Bundle
from mmray.errors import BundleError, ConfigError
from mmray.schema import MODALITIES, Modality
from mmray.sources import Shard

#: Increase it with every code change that changes bundles: older bundles are then built again.
REVISION = 2


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class Recipe(BaseModel):
    """How a bundle is built from shards and encoders."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    modalities: tuple[Modality, ...] = MODALITIES  # that the model takes
    least_records: int = Field(15, ge=5)  # labels with fewer records are left out
    folds: int = Field(5, ge=2)  # of the cross-validation
    seed: int = 0  # of the folds

    def origin(self, shards: Sequence[Shard], encoders: str) -> dict[str, str]:
        """The origin in the bundle's manifest; it decides whether a bundle is up to date."""
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
        ConfigError: an unknown name, or no name at all.
    """
    chosen = set(names)
    known = ", ".join(MODALITIES)
    if unknown := chosen - set(MODALITIES):
        raise ConfigError(f"unknown modality {min(unknown)!r}; choose from {known}")
    if not chosen:
        raise ConfigError(f"no modality is named; choose from {known}")
    return tuple(m for m in MODALITIES if m in chosen)


def find_built(output: Path, origin: dict[str, str]) -> Bundle | None:
    """The bundle at `output`, if it is intact and has exactly this origin."""
    try:
        bundle = Bundle.open(output)
        if bundle.manifest.origin != origin:
            return None
        bundle.verify()
    except BundleError:  # missing, broken or altered: it is built again
        return None
    return bundle
