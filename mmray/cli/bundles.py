"""The commands of `mmray bundle`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

bundle_app = typer.Typer(help="Make a bundle from your model, inspect one, verify it.", no_args_is_help=True)


def examples(*lines: str) -> str:
    """The end of a command's help; a blank line in between keeps examples on separate lines."""
    return "\n\n".join(["Examples:", *lines]) if len(lines) > 1 else f"Example: {lines[0]}"


BundleArgument = Annotated[str, typer.Argument(metavar="DIR", help="Bundle directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LogFormat = Annotated[
    Literal["human", "json"],
    typer.Option("--log-format", help="json: one object a line on standard error, for log collectors."),
]


@bundle_app.command(
    "import",
    epilog=examples(
        "mmray bundle import models/clip --labels cat,dog,bird --output bundles/clip",
        "mmray bundle import openai/clip-vit-base-patch32 --labels labels.txt --output bundles/clip",
        "mmray bundle import model.yaml --output bundles/mine",
    ),
)
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Directory of a CLIP, SigLIP, CLAP or AST model, its name on the Hugging Face hub, or a "
            "YAML file that describes a model: docs/your-model.md.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", help="Directory of the bundle.")],
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            metavar="FILE|A,B,C",
            help="For a directory: a file with a label a line, or the labels. Without it: features only.",
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt", help="For a directory: text that describes a label, such as 'a photo of a {}'."
        ),
    ] = None,
) -> None:
    """Make a bundle from a `transformers` directory, a model on the Hugging Face hub, or ONNX files."""
    from mmray.cli.importing import import_model

    import_model(source, output, labels, prompt)


@bundle_app.command()
def inspect(directory: BundleArgument, json: AsJson = False) -> None:
    """Show the contents and the quality of a bundle."""
    from mmray.bundle import Bundle
    from mmray.cli.display import print_bundle

    print_bundle(Bundle.open(directory), as_json=json)


@bundle_app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="Bundle directory.")],
    second: Annotated[str | None, typer.Argument(metavar="B", help="Another bundle to compare with.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Also write a page: accuracy against time, and all figures.")
    ] = None,
) -> None:
    """Show accuracy, time, verdicts, size and memory of a bundle, or of two side by side."""
    from mmray.cli.optimizing import compare_bundles

    compare_bundles([first, second] if second else [first], html)


@bundle_app.command()
def verify(directory: BundleArgument) -> None:
    """Check every file against its checksum, and every variant against the golden outputs, here."""
    from mmray.bundle import Bundle
    from mmray.cli.display import print_line
    from mmray.page.table import number
    from mmray.predictor import Predictor

    bundle = Bundle.open(directory)
    bundle.verify()
    print_line(f"checksums match: {number(len(bundle.manifest.files), 'file')}")
    records = bundle.golden_records()
    if records is None:
        print_line("golden inputs are tensors only (made by an older mmray): preprocessing is not checked")
    else:
        print_line(f"golden inputs start from {number(records.num_rows, 'raw record')}")
    for variant in bundle.passing():
        difference = Predictor(bundle, variant=variant).golden_difference
        print_line(f"{variant}: golden outputs reproduced within {difference:.1e}")
