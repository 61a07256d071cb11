"""The commands of `mmray bundle`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

bundle_app = typer.Typer(help="Make a bundle of your model, look into one, check it.", no_args_is_help=True)

BundleArgument = Annotated[str, typer.Argument(metavar="DIR", help="Bundle directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LogFormat = Annotated[
    Literal["human", "json"],
    typer.Option("--log-format", help="json: one object a line on standard error, for log collectors."),
]


@bundle_app.command("import")
def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.yaml", help="What the model consists of: docs/your-model.md.")
    ],
    output: Annotated[Path, typer.Option("--output", help="Directory of the bundle.")],
) -> None:
    """Make a bundle of ONNX files or local `transformers` directories."""
    from mmray.cli.importing import import_model

    import_model(file, output)


@bundle_app.command()
def inspect(directory: BundleArgument, json: AsJson = False) -> None:
    """Show what a bundle holds and how good it is."""
    from mmray.bundle import Bundle
    from mmray.cli.display import print_bundle

    print_bundle(Bundle.open(directory), as_json=json)


@bundle_app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="Bundle directory.")],
    second: Annotated[str | None, typer.Argument(metavar="B", help="Another one, beside it.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Also write a page: accuracy against time, and all figures.")
    ] = None,
) -> None:
    """Show what a bundle is worth, or two side by side: accuracy, time, verdicts, size, memory."""
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
