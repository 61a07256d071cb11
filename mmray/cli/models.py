"""The commands that use or make a model; `mmray.cli` adds them to the others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from mmray.cli.bundles import AsJson, LogFormat


def predict(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="Bundle directory.")],
    image: Annotated[Path | None, typer.Option("--image", help="Picture: JPEG, PNG, WebP.")] = None,
    text: Annotated[str | None, typer.Option("--text", help="The text itself.")] = None,
    audio: Annotated[Path | None, typer.Option("--audio", help="Sound: WAV, FLAC, Ogg, MP3.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Also predict without each modality.")] = False,
    set: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="variant, abstain, limits, foreign_text: `abstain=0.05`."
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Predict one record without a server; any of its modalities may be missing."""
    from mmray.cli.predicting import Given, predict_record

    given = Given(image, text, audio)
    predict_record(bundle, given, explain=explain, as_json=json, assignments=set or ())


def profile(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="Bundle directory.")],
    inputs: Annotated[list[str], typer.Argument(metavar="IN...", help="Shards, as --input takes them.")],
    variant: Annotated[str, typer.Option("--variant", help="auto: the fastest on this machine.")] = "auto",
    provider: Annotated[
        Literal["auto", "cpu", "cuda", "tensorrt", "openvino"],
        typer.Option("--provider", help="Where to run."),
    ] = "auto",
    rows: Annotated[int, typer.Option("--rows", min=1, help="Largest number of records.")] = 200,
    trace: Annotated[Path, typer.Option("--trace", help="File of the trace, for ui.perfetto.dev.")] = Path(
        "trace.json"
    ),
) -> None:
    """Run some records in this process, and show their time by stage and by operator."""
    from mmray.cli.profiling import profile_records

    profile_records(bundle, inputs, variant, provider, rows, trace)


def serve(
    bundles: Annotated[list[str], typer.Argument(metavar="BUNDLE...", help="Bundle directories.")],
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; 0.0.0.0: all of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8000,
    replicas: Annotated[
        str,
        typer.Option("--replicas", metavar="N|MIN:MAX", help="Replicas of each bundle; each takes a CPU."),
    ] = "1",
    variant: Annotated[str, typer.Option("--variant", help="auto: the fastest on this machine.")] = "auto",
    topology: Annotated[
        Literal["auto", "fused", "split"],
        typer.Option("--topology", help="split: some replicas preprocess on CPUs, others run the model."),
    ] = "auto",
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="Bearer tokens, one a line; $MMRAY_TOKEN adds one.")
    ] = None,
    client_connections: Annotated[
        int,
        typer.Option(
            "--client-connections", min=1, help="Maximum connections of one address; a proxy is one."
        ),
    ] = 256,
    set: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any key of docs/serving.md, as `abstain=0.05`."),
    ] = None,
    traces: Annotated[
        str | None, typer.Option("--traces", metavar="otlp|DIR", help="Where to send traces of requests.")
    ] = None,
    trace_share: Annotated[
        float,
        typer.Option("--trace-share", min=0, max=1, help="Share of requests without a traceparent to trace."),
    ] = 1.0,
    log_format: LogFormat = "human",
) -> None:
    """Serve bundles over HTTP, with a page to try them; several answer under their directories' names."""
    if log_format == "json":
        from mmray.cli.json_lines import begin

        os.environ.setdefault("RAY_SERVE_LOG_ENCODING", "JSON")  # of replicas' logs in Ray's files
        begin()
    from mmray.cli.serving import Asked, serve_bundles

    tokens = str(token_file) if token_file else None
    asked = Asked(
        host=host,
        port=port,
        replicas=replicas,
        variant=variant,
        topology=topology,
        token_file=tokens,
        client_connections=client_connections,
        traces=traces,
        trace_share=trace_share,
        set=tuple(set or ()),
    )
    serve_bundles(bundles, asked)


def bench_serve(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="Bundle directory.")],
    input: Annotated[list[str], typer.Option("--input", help="Shards whose records are sent.")],
    p99_ms: Annotated[
        float, typer.Option("--p99-ms", min=0.1, help="Target of the 99th percentile of latency.")
    ] = 50.0,
    replicas: Annotated[
        list[int] | None,
        typer.Option("--replicas", min=1, help="May be repeated. Default: all CPUs, and half."),
    ] = None,
    batch_rows: Annotated[
        list[int] | None,
        typer.Option("--batch-rows", min=1, max=256, help="May be repeated. Default: 1 and 8."),
    ] = None,
    wait_ms: Annotated[
        list[float] | None,
        typer.Option("--wait-ms", min=0, max=1000, help="May be repeated. Default: 0 and 5."),
    ] = None,
    requests: Annotated[int, typer.Option("--requests", min=368, help="Number in each step.")] = 1000,
    records: Annotated[int, typer.Option("--records", min=1, help="Number of different records.")] = 128,
    variant: Annotated[str, typer.Option("--variant", help="auto: the fastest on this machine.")] = "auto",
    plot: Annotated[
        Path | None, typer.Option("--plot", help="PNG file: latency over throughput; needs mmray[plots].")
    ] = None,
    set: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="As for `mmray serve`, for all settings."),
    ] = None,
) -> None:
    """Load-test settings of `mmray serve`: the highest rate within a latency target; exit 1 if none."""
    from mmray.cli.sweeping import Grid, sweep
    from mmray.load.sweep import Asked

    cpus = os.cpu_count() or 1
    grid = Grid(replicas or [max(1, cpus // 2), cpus], batch_rows or [1, 8], wait_ms or [0.0, 5.0])
    options = ["--variant", variant, *(word for one in set or () for word in ("--set", one))]
    asked = Asked(bundle, p99_ms, requests, options=tuple(options))
    sweep(asked, grid, input, records, plot)


def optimize(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="Bundle directory; it is not changed.")],
    recipe: Annotated[
        Path,
        typer.Option("--recipe", help="YAML file: variants, and records to judge them: docs/variants.md."),
    ],
    output: Annotated[Path, typer.Option("--output", help="Directory of the new bundle.")],
    again: Annotated[
        str | None, typer.Option(help="Reason to judge variants again on the same test records.")
    ] = None,
) -> None:
    """Make smaller or faster variants of a bundle, and keep those that agree with it; exit 1 if none."""
    from mmray.cli.optimizing import optimize_bundle

    optimize_bundle(bundle, recipe, output, again)


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="Model and training: docs/training.md.")],
    output: Annotated[Path, typer.Option("--output", help="Directory of the bundle.")],
    work: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoints, history, curves; runs/train/NAME by default. Training resumes there."
        ),
    ] = None,
    downloads: Annotated[Path, typer.Option(help="Directory of downloaded weights.")] = Path(
        "data/downloads"
    ),
    workers: Annotated[int, typer.Option(min=1, help="Of Ray Train; 1 trains without Ray.")] = 1,
    profile: Annotated[
        Path | None,
        typer.Option(help="Train only some batches, show their time, and write this trace."),
    ] = None,
    set: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any key of the recipe, as `seed=1`."),
    ] = None,
) -> None:
    """Train a model by a recipe on labelled shards, and write it as a bundle."""
    from mmray.cli.training import Asked, train_recipe

    train_recipe(recipe, Asked(output, work, downloads, workers, profile, tuple(set or ())))
