"""The cost of a record on this machine, from times of the real path with each subset of the modalities."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from mmray.variants.cascades.evidence import HALF


@dataclass(frozen=True)
class Costs:
    """Milliseconds of a record on one thread."""

    row: float  # for each stage that it reaches, whichever modalities it has
    modality: Mapping[str, float]  # by look, if the record has it: decoding and encoder
    decoded_image: float = 0.0  # of an image that an earlier stage saw at half size: it is decoded already

    def with_half(self, *, saved: float, decoding: float) -> Costs:
        """The same with HALF.

        Args:
            saved: by looking at the image at half size instead of full size.
            decoding: of an image.
        """
        half = max(self.modality["image"] - saved, 0.0)
        again = max(self.modality["image"] - decoding, 0.0)
        return replace(self, modality={**self.modality, HALF: half}, decoded_image=again)

    def of(self, look: str, before: Collection[str] = ()) -> float:
        """Cost of a modality, or of HALF, after earlier stages have looked at others."""
        return self.decoded_image if look == "image" and HALF in before else self.modality[look]


def fit_costs(times: Mapping[tuple[str, ...], float], shares: Mapping[str, float]) -> Costs:
    """Costs that fit measured times best: non-negative least squares (Lawson & Hanson 1974).

    Args:
        times: milliseconds a record of the path that looks at a subset of the modalities, of every subset.
        shares: of the timed records that have each modality.
    """
    modalities = [m for m, share in shares.items() if share]
    design: npt.NDArray[np.float64] = np.array(
        [[1.0, *(shares[m] if m in subset else 0.0 for m in modalities)] for subset in times]
    )
    found, _ = nnls(design, np.array(list(times.values())))
    costs = dict(zip(modalities, found[1:].tolist(), strict=True))
    return Costs(float(found[0]), {m: costs.get(m, 0.0) for m in shares})
