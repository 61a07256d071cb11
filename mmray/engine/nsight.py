"""Named ranges (NVTX), which Nsight Systems shows above a GPU's kernels."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

try:
    import nvtx
except ModuleNotFoundError:  # of the extra `gpu`
    nvtx = None

_DOMAIN = "mmray"


def marked(name: str) -> AbstractContextManager[object]:
    """A range around the body, of this thread; does nothing if the package nvtx is not installed."""
    return nvtx.annotate(name, domain=_DOMAIN) if nvtx else nullcontext()
