"""`mmray bundle import`: a model that was made elsewhere becomes a bundle."""

from __future__ import annotations

from pathlib import Path

from mmray.bundle import Bundle
from mmray.cli.display import print_bundle, print_line
from mmray.errors import UsageError
from mmray.optimize.importing.description import Description, read_description


def import_model(file: Path, output: Path) -> None:
    """Make the bundle that a YAML file describes, then show it.

    Raises:
        UsageError: a package that this needs is not installed, or the file, the model or the place is unfit.
    """
    description = read_description(file)
    try:
        bundle = _import(description, output)
    except ModuleNotFoundError as e:
        extra = "transformers" if description.transformers else "optimize"
        raise UsageError(f"{file}: needs the package {e.name}: pip install 'mmray[{extra}]'") from e
    print_bundle(bundle, as_json=False)


def _import(description: Description, output: Path) -> Bundle:
    """Import torch, which takes seconds, only where the description is sound."""
    if description.transformers:
        from mmray.optimize.importing.from_transformers import import_transformers

        return import_transformers(description, output, say=print_line)
    from mmray.optimize.importing.from_onnx import import_onnx

    return import_onnx(description, output, say=print_line)
