"""Named ranges of time (NVTX), which Nsight Systems draws above a GPU's kernels."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

try:
    import nvtx
except ModuleNotFoundError:  # of the extra `gpu`
    nvtx = None

_DOMAIN = "mmray"


def marked(name: str) -> AbstractContextManager[object]:
    """A range around what is done in it, of this thread; nothing where the package nvtx is not installed."""
    return nvtx.annotate(name, domain=_DOMAIN) if nvtx else nullcontext()
