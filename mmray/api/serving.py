"""A bundle as an application of Ray Serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.serve import Application

from mmray.serve.app import build
from mmray.storage import Location


def serve_app(bundle: str | Path, **settings: Any) -> Application:  # noqa: ANN401
    """The application of `mmray serve`, for `serve.run`, `serve deploy`, or together with others.

        serve.run(mmray.serve_app("bundles/stamps", max_replicas=4), route_prefix="/stamps")

    Args:
        bundle: its path or URL, which all nodes of the cluster can read.
        settings: keys of docs/serving.md, as `batch_rows=16`.

    Raises:
        ConfigError: a key or a value is wrong.
        BundleError: not a bundle.
    """
    return build({"bundle": str(Location.parse(bundle)), **settings})
