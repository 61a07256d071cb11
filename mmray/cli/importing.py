"""`mmray bundle import`: makes a bundle from an existing model."""

from __future__ import annotations

from pathlib import Path

from mmray.bundle import Bundle, check_replaceable
from mmray.cli.display import print_bundle, print_line
from mmray.errors import UsageError
from mmray.importing import (
    Description,
    describe_directory,
    fetch_from_hub,
    is_hub_name,
    parse_labels,
    read_description,
)


def import_model(source: str, output: Path, labels: str | None = None, prompt: str | None = None) -> None:
    """Make a bundle of a model, then show it.

    Args:
        source: a directory of CLIP, SigLIP, CLAP or AST, its name on the Hugging Face hub, or a YAML file.
        output: the bundle's directory.
        labels: for a directory: a file with one a line, or A,B,C; None: the bundle gives features only.
        prompt: for a directory: text that describes a label, with {} in its place.

    Raises:
        UsageError: a package is not installed, or the file, the model or the output is unusable.
    """
    extra = "transformers"
    try:
        check_replaceable(output)
        description = _describe(source, labels, prompt)
        if not description.transformers:
            extra = "optimize"
        bundle = _import(description, output)
    except ModuleNotFoundError as e:
        raise UsageError(f"{source}: needs the package {e.name}: pip install 'mmray[{extra}]'") from e
    print_bundle(bundle, as_json=False)


def _describe(source: str, labels: str | None, prompt: str | None) -> Description:
    path = Path(source).expanduser()
    fetches = not path.exists() and is_hub_name(source)
    if path.is_dir() or fetches:
        wanted = parse_labels(labels) if labels is not None else ()
        directory = fetch_from_hub(source) if fetches else path
        return describe_directory(directory, wanted, prompt)
    if not path.exists():
        raise UsageError(
            f"{source}: not found; give a directory, a YAML file, or OWNER/MODEL on the Hugging Face hub"
        )
    if labels is not None or prompt is not None:
        raise UsageError(
            f"{source}: --labels and --prompt are for a directory; a YAML file has keys for them"
        )
    return read_description(path)


def _import(description: Description, output: Path) -> Bundle:
    """Import torch, which takes seconds, only after the description was checked."""
    if description.transformers:
        from mmray.importing import import_transformers

        return import_transformers(description, output, say=print_line)
    from mmray.importing import import_onnx

    return import_onnx(description, output, say=print_line)
