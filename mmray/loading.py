"""Loads a bundle's variant as an engine, with files from the bundle and this machine's cache."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mmray.bundle import Bundle
from mmray.digests import sha256_of_all
from mmray.engine import (
    Compiled,
    Engine,
    Provider,
    Setup,
    best_provider,
    device_type,
    engine_version,
    fitting_graph,
    shared_graph,
)
from mmray.shapes import Ladder
from mmray.storage import cache_directory

_Shapes = tuple[tuple[int, ...], tuple[int, ...]]  # least and largest of an input


def open_engine(
    bundle: Bundle,
    variant: str,
    *,
    provider: Provider,
    threads: int,
    ladder: Ladder | None = None,
    shared: bool = False,
    file: str | None = None,
    nhwc: bool = False,
    record_placement: bool = False,
    trace: Path | None = None,
) -> Engine:
    """Load a variant.

    Args:
        bundle: an opened bundle.
        variant: one of its variants.
        provider: where to run.
        threads: threads of one inference.
        ladder: sizes of the batches to come; TensorRT compiles a whole variant for them.
        shared: whether other processes of this machine load the same graph; on the CPU they then share its
            weights.
        file: which of the variant's graphs, relative to the bundle; None: the full one.
        nhwc: whether convolutions run channels-last on CUDA.
        record_placement: whether the engine can report the provider of each node.
        trace: as in `mmray.engine.Setup`; the graph is then not shared.

    Raises:
        BundleError: no such variant, or a file of it that was altered.
        EngineError: the graph or the provider did not load.
    """
    is_whole = file is None
    file = file or bundle.entry(variant).file
    files = bundle.graph_files(file)
    chosen = best_provider() if provider == "auto" else provider
    if chosen == "cpu" and shared and not trace:
        with suppress(Exception):  # sharing only saves memory: errors also occur without it
            prepacked = shared_graph(files, cache_directory())
            return Engine(prepacked, provider="cpu", threads=threads, prepacked=True)
    compiled, precision = None, bundle.entry(variant).precision
    profiles = tuple(shape_profiles(ladder)) if chosen == "tensorrt" and ladder and is_whole else ()
    if chosen == "tensorrt":
        about = (
            f"{sha256_of_all(files)} {chosen} {device_type(chosen)} {engine_version()} {precision} {profiles}"
        )
        compiled = Compiled(cache_directory() / "engines" / hashlib.sha256(about.encode()).hexdigest()[:24])
    setup = Setup(
        cache=compiled.directory if compiled else None,
        profiles=profiles,
        precision=precision,
        nhwc=nhwc,
        record_placement=record_placement,
        trace=trace,
    )
    graph = fitting_graph(files, cache_directory()) if chosen == "openvino" else files[0]
    engine = Engine(graph, provider=chosen, threads=threads, setup=setup)
    bundle.graph_files(file)  # no file was altered while it was read
    engine.compiled = compiled
    return engine


def shape_profiles(ladder: Ladder) -> Iterator[dict[str, _Shapes]]:
    """Least and largest shape of every input, one profile for each number of rows and width of texts.

    For engines that are compiled for ranges of shapes.
    """
    spec = ladder.spec
    for rows in ladder.rows:
        places, patches = ladder.places(rows), ladder.patches(rows)

        def between(steps: tuple[int, ...], *rest: int) -> _Shapes:
            return (steps[0], *rest), (steps[-1], *rest)

        shapes = {"present": between((rows + 1,), len(spec.modalities))}
        if image := spec.image:
            shapes["pixels"] = between(places, image.height, image.width, 3)
            shapes["pixels_row"] = between(places)
        if audio := spec.audio:
            shapes["log_mel"] = between(patches, audio.patch_frames, audio.mel_bins)
            shapes["log_mel_row"] = between(patches)
        if spec.text is None:
            yield shapes
            continue
        shapes["text_row"] = between(places)
        for width in ladder.tokens:
            yield shapes | {name: between(places, width) for name in ("input_ids", "attention_mask")}
