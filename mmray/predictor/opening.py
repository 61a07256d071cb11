"""Opens a bundle: its preprocessing and its stages, both checked on golden records first."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from mmray.align import AlignSpec
from mmray.bundle import Bundle
from mmray.cascade import open_stages
from mmray.confidence import Abstain, least_score
from mmray.engine import ON_CPU, Provider, best_provider, device_name
from mmray.engine.turns import Device
from mmray.golden import prove, remade
from mmray.predictor.blame import Runner
from mmray.preprocess import OnDamaged, Preprocessor
from mmray.preprocess.spec import Limits
from mmray.race import choose
from mmray.schema import Modality, OutputColumns
from mmray.shapes import Ladder, cpu_rows, job_ladder
from mmray.unread import OnForeignText, OnUnread


def open_preprocessor(
    bundle: Bundle,
    *,
    limits: Limits | None = None,
    modalities: Collection[Modality] | None = None,
    on_damaged: OnDamaged = "reject",
    on_unread: OnUnread = "warn",
    foreign_text: OnForeignText = "keep",
    align: AlignSpec | None = None,
) -> Preprocessor:
    """The preprocessing that a bundle's model was trained with, checked on its golden records.

    Raises:
        BundleError: a file of the bundle was altered.
        EngineError: this machine gives other tensors for the golden records.
        ConfigError: foreign texts are to be masked, but the package that detects languages is missing.
    """
    remade(bundle, bundle.golden()[0])
    return Preprocessor(
        bundle.spec,
        bundle.tokenizer,
        limits=limits,
        modalities=modalities,
        on_damaged=on_damaged,
        on_unread=on_unread,
        foreign_text=foreign_text,
        align=align,
    )


@dataclass(frozen=True)
class Opened:
    """The stages of a variant, loaded and checked on this machine."""

    variant: str
    runners: list[Runner]
    ladder: Ladder | None  # None: a CPU, which takes any shape
    golden_difference: float  # largest difference from the bundle's golden outputs


def open_runners(
    bundle: Bundle,
    variant: str,
    *,
    provider: Provider,
    threads: int,
    batch_rows: int | None,
    ladder: Ladder | None,
    shared: bool,
    device: Device,
    trace: Path | None,
) -> Opened:
    """Load the graphs of a variant and compare what they give with the bundle's golden outputs.

    Args and errors are those of `mmray.predictor.Predictor`.
    """
    where = best_provider() if provider == "auto" else provider
    if where not in ON_CPU and ladder is None:
        ladder = job_ladder(bundle.spec, batch_rows)
    choice = choose(bundle, variant, provider=where, threads=threads, ladder=ladder)
    stages = open_stages(
        bundle,
        choice.variant,
        provider=where,
        threads=threads,
        ladder=ladder,
        shared=shared,
        nhwc=choice.nhwc,
        trace=trace,
    )
    difference, golden = prove(bundle, choice.variant, stages, device_name(where))
    for stage in stages:
        if stage.engine.compiled:
            stage.engine.compiled.keep()
    rows = batch_rows or cpu_rows(bundle.spec)
    runners = [
        Runner(stage, bundle.spec, its_golden, device=device, batch_rows=rows, ladder=ladder)
        for stage, its_golden in zip(stages, golden, strict=True)
    ]
    return Opened(choice.variant, runners, ladder, difference)


def default_columns(bundle: Bundle, variant: str, abstain: Abstain, features: bool = False) -> OutputColumns:
    """Scores of every class, and for a cascade its stages; features if asked for or without labels.

    Raises:
        ConfigError: the bundle does not support the risk.
    """
    staged = bundle.manifest.variants[variant].cascade is not None
    least = least_score(bundle, variant, abstain)
    width = bundle.manifest.features if features or not bundle.labels else 0
    if bundle.labels:
        return OutputColumns(classes=len(bundle.labels), features=width, staged=staged, least_score=least)
    return OutputColumns(classes=0, labelled=False, features=width)
