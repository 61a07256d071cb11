"""What the tests share: one synthetic set, one small bundle, one Ray cluster, all made once a session."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from mmray.bundle import Bundle

ROOT = Path(__file__).parent.parent


def load_script(path: str) -> ModuleType:
    """A script of datasets/ or jobs/ as a module; they are run by path, not imported as packages."""
    file = ROOT / path
    sys.path.insert(0, str(file.parent))
    try:
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(file.stem, module)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(file.parent))
    return module


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of synthetic shards: 240 records, every fifth member missing."""
    directory = tmp_path_factory.mktemp("data") / "synthetic"
    load_script("datasets/synthetic.py").build(directory, rows=240, shard_rows=40, missing=0.2, seed=1)
    return directory


@pytest.fixture(scope="session")
def bundle(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with small random encoders and a trained head, built by the same path as the real one."""
    from mmray.optimize.build import build_bundle, tiny_encoders

    return build_bundle([str(shards)], tmp_path_factory.mktemp("bundles") / "tiny", encoders=tiny_encoders())


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local cluster of two CPUs for every test that needs one."""
    import ray

    import mmray.pipeline  # noqa: F401  (settles how loud Ray is, before it is imported)

    ray.init(num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    yield
    ray.shutdown()
