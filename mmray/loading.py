"""A bundle's variant as a loaded engine: what a provider needs of the bundle and of this machine's cache."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from mmray.batching import shape_profiles
from mmray.bundle import Bundle
from mmray.engine import Engine, Provider, Setup, best_provider, device_type, engine_version, shared_graph
from mmray.storage import cache_directory


def open_engine(
    bundle: Bundle,
    variant: str,
    *,
    provider: Provider,
    threads: int,
    batch_rows: int,
    shared: bool = False,
    file: str | None = None,
) -> Engine:
    """Load a variant.

    Args:
        bundle: an opened bundle.
        variant: one of its variants.
        provider: where to run.
        threads: threads of one inference.
        batch_rows: most records of one inference; TensorRT compiles for batches up to that.
        shared: whether other processes of this machine load the same graph; on the CPU they then share its
            weights.
        file: which of the variant's graphs, relative to the bundle; None: the whole one.

    Raises:
        BundleError: no such variant.
        EngineError: the graph or the provider did not load.
    """
    graph = bundle.path / file if file else bundle.graph(variant)
    chosen = best_provider() if provider == "auto" else provider
    if chosen == "cpu" and shared:
        digest = bundle.manifest.files[file or bundle.manifest.variants[variant].file]
        with suppress(Exception):  # sharing only saves memory: what is wrong shows without it, too
            prepacked = shared_graph(graph, digest, cache_directory())
            return Engine(prepacked, provider="cpu", threads=threads, prepacked=True)
    setup = None if chosen in ("cpu", "cuda") else _setup(bundle, variant, chosen, batch_rows)
    return Engine(graph, provider=chosen, threads=threads, setup=setup)


def _setup(bundle: Bundle, variant: str, provider: Provider, batch_rows: int) -> Setup:
    """For the providers that compile: what for, and where the result is kept."""
    about = f"{bundle.digest} {variant} {provider} {device_type(provider)} {engine_version()} {batch_rows}"
    cache = cache_directory() / "engines" / hashlib.sha256(about.encode()).hexdigest()[:24]
    Path(cache).mkdir(parents=True, exist_ok=True)
    return Setup(
        cache=cache,
        profiles=tuple(shape_profiles(bundle.spec, batch_rows)) if provider == "tensorrt" else (),
        precision=bundle.manifest.variants[variant].precision,
    )
