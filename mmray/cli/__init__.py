"""The command line. Exit codes: 0 clean; 1 audit or threshold failed; 2 wrong usage, config or input,
nothing changed; 3 the run failed and the same command resumes it; 70 a bug in mmray; 130 interrupted, the
same command resumes it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from mmray import __version__, signals
from mmray.cli import json_lines
from mmray.cli.bundles import AsJson, LogFormat, bundle_app, examples
from mmray.cli.models import bench_serve, optimize, predict, profile, serve, train
from mmray.cli.outgoing import tolerate_closed_pipe
from mmray.errors import SignalError

# Heavy imports (ray, onnxruntime) happen inside the commands: --help and a wrong option answer at once.

app = typer.Typer(
    help="Distributed multimodal batch inference: image-text-audio shards in, predictions in Parquet out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(bundle_app, name="bundle")

#: Copy of `mmray.sources.formats.READABLE`, which takes a third of a second to import; a test compares them.
READABLE = (
    "It reads tars (plain, gzip, bzip2, zstd), LMDBs, TFRecords (plain, gzip), Parquet, Arrow, CSV, TSV and "
    "JSONL files and folders of loose files"
)

ConfigFile = Annotated[
    Path | None, typer.Argument(metavar="[CONFIG.yaml]", help="Run config; options override it.")
]
Input = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        help=f"Path, URL, directory, glob or brace pattern; may be given several times. {READABLE}.",
    ),
]
BundleOption = Annotated[str | None, typer.Option("--bundle", help="Bundle directory.")]
Output = Annotated[
    str | None, typer.Option("--output", help="Run directory; an unfinished run in it is resumed.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Any config key, as `limits.audio_s=60`. May be repeated."
    ),
]
RunArgument = Annotated[str, typer.Argument(metavar="OUT", help="Run directory.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mmray {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Entry point: errors become one line and an exit code."""
    tolerate_closed_pipe()
    try:
        with signals.raised():
            app()
    except (Exception, SignalError) as e:
        from mmray.cli.display import print_error
        from mmray.cli.failing import exit_code, last_words

        print_error(*last_words(e))
        sys.exit(exit_code(e))
    sys.exit(0)


@app.command(
    epilog=examples(
        "mmray run --input data/tuxpaint --bundle bundles/stamps --output runs/mine",
        "mmray run run.yaml --set on_damaged=mask --set limits.audio_s=60",
    )
)
def run(
    config: ConfigFile = None,
    input: Input = None,
    bundle: BundleOption = None,
    output: Output = None,
    set: Set = None,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes",
            help="Resume although shards were added or changed; these are processed again.",
        ),
    ] = False,
    moved: Annotated[
        bool,
        typer.Option("--moved", help="Resume with copied shards that have new times: compare only content."),
    ] = False,
    verify_all: Annotated[
        bool,
        typer.Option(
            "--verify-all",
            help="For a cascade: also decode unused modalities, so that damage in them is reported.",
        ),
    ] = False,
    log_format: LogFormat = "human",
) -> None:
    """Run a bundle over all records; resumes an unfinished run in the same output directory."""
    if log_format == "json":  # errors before the run also need its name
        json_lines.begin()
    from mmray.cli.concluding import conclude, display_of
    from mmray.config import load_config
    from mmray.pipeline.run import run as run_pipeline

    given = _given(input, bundle, output) | ({"verify_all": True} if verify_all else {})
    settings = load_config(config, given, set or ())
    with display_of(settings.output, log_format) as display:
        result = run_pipeline(settings, display.watcher, accept_changes=accept_changes, moved=moved)
    conclude(display, result)


@app.command(epilog=examples("mmray retry runs/mine --set limits.audio_s=7200"))
def retry(out: RunArgument, set: Set = None, log_format: LogFormat = "human") -> None:
    """Process the rejects of a run again; those that succeed now become predictions."""
    from mmray.cli.concluding import conclude, display_of
    from mmray.config import load_config
    from mmray.pipeline.retry import retry as retry_rejects

    with display_of(out, log_format, retry=True) as display:
        result = retry_rejects(out, lambda earlier: load_config(None, earlier, set or ()), display.watcher)
    conclude(display, result)


@app.command(epilog=examples("mmray plan --input data/tuxpaint --bundle bundles/stamps --output runs/mine"))
def plan(
    config: ConfigFile = None,
    input: Input = None,
    bundle: BundleOption = None,
    output: Output = None,
    set: Set = None,
    json: AsJson = False,
) -> None:
    """Show what a run would do: shards, modalities, topology, CPU budget, what a resume would skip."""
    from mmray.cli.display import print_plan
    from mmray.config import load_config
    from mmray.pipeline.run import preview

    print_plan(preview(load_config(config, _given(input, bundle, output), set or ())), as_json=json)


@app.command()
def audit(
    out: RunArgument,
    json: AsJson = False,
    recount: Annotated[
        bool, typer.Option("--recount", help="Also read the input again and count its records.")
    ] = False,
) -> None:
    """Check that input = predicted + rejected, shard by shard, each row once."""
    from mmray.cli.display import print_audit
    from mmray.errors import AuditError
    from mmray.page.table import number
    from mmray.pipeline.audit import audit as audit_run
    from mmray.pipeline.rundir import RunDirectory

    verdict = audit_run(RunDirectory.at(out), recount=recount)
    print_audit(verdict, as_json=json)
    if not verdict.ok:
        counts = number(len(verdict.problems), "problem"), number(len(verdict.faults), "shard fault")
        raise AuditError(f"{out}: {', '.join(counts)}")


@app.command(
    epilog=examples(
        "mmray report runs/mine --gallery 24", "mmray report runs/mine runs/other --html compared.html"
    )
)
def report(
    out: RunArgument,
    other: Annotated[str | None, typer.Argument(metavar="OTHER", help="Another run to compare with.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="File of the page; OUT/report.html by default.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option("--labels", metavar="FIELD", help="Carried field with true labels; `label` by default."),
    ] = None,
    gallery: Annotated[
        int, typer.Option("--gallery", min=0, max=60, help="Number of small pictures of the worst mistakes.")
    ] = 0,
) -> None:
    """Write report.html of a run again: time, counts, labels, confidence, accuracy; or compare two runs."""
    from mmray.cli.reporting import report_run

    report_run(out, other, html, labels, gallery)


@app.command()
def index(
    inputs: Annotated[list[str], typer.Argument(metavar="IN...", help="Shards, as --input takes them.")],
) -> None:
    """Write an index next to each shard, so that several tasks can share a large one."""
    from mmray.cli.indexing import index_shards

    index_shards(inputs)


@app.command(epilog=examples("mmray convert data/tuxpaint data/lmdb --to lmdb"))
def convert(
    inputs: Annotated[list[str], typer.Argument(metavar="IN", help="Tars and LMDBs, as --input takes them.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Local directory.")],
    to: Annotated[Literal["lmdb", "webdataset"], typer.Option("--to", help="Format to write.")],
    layout: Annotated[
        Literal["members", "msgpack", "images"], typer.Option("--layout", help="Layout of the LMDBs.")
    ] = "members",
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Number of processes.")] = None,
) -> None:
    """Convert tars to LMDBs or back, every record verified; skips what is converted already."""
    from mmray.cli.converting import convert_shards

    convert_shards(inputs, out, to, layout, workers)


_MODEL_COMMANDS: dict[Callable[..., None], tuple[str, ...]] = {
    predict: ('mmray predict bundles/stamps --image cat.png --text "a cat"',),
    profile: ("mmray profile bundles/stamps data/tuxpaint --rows 200",),
    serve: (
        "mmray serve bundles/stamps",
        "mmray serve bundles/stamps bundles/emoji --host 0.0.0.0 --replicas 1:4 --token-file tokens.txt",
    ),
    bench_serve: ("mmray bench-serve bundles/stamps --input data/tuxpaint --p99-ms 50",),
    optimize: ("mmray optimize bundles/stamps --recipe jobs/configs/optimize.yaml --output bundles/fast",),
    train: ("mmray train jobs/configs/train/student.yaml --output bundles/student",),
}
for command, lines in _MODEL_COMMANDS.items():
    app.command(epilog=examples(*lines))(command)


@app.command(epilog=examples("mmray demo"))
def demo(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Directory for records, bundle and runs; 0.5 GB.")
    ] = Path("mmray-demo"),
) -> None:
    """Download real records and encoders, build a bundle, run the job over them; four minutes."""
    from mmray.cli.demo import become_demo

    become_demo(folder)


@app.command()
def doctor(
    bundle: Annotated[
        str | None, typer.Option(help="Also show which provider runs the nodes of this bundle's graphs.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Check this machine: engines, CPU, memory, disk, conflicting packages."""
    from mmray.cli.doctor import diagnose, print_findings
    from mmray.errors import AuditError

    findings = diagnose(bundle)
    print_findings(findings, as_json=json)
    if any(finding.level == "bad" for finding in findings):
        raise AuditError("this machine is not ready for runs: see the lines marked ✗")


def _given(input: list[str] | None, bundle: str | None, output: str | None) -> dict[str, Any]:
    return {"input": tuple(input) if input else None, "bundle": bundle, "output": output}
