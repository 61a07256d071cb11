"""What the tests share: one synthetic set, one small bundle, one Ray cluster, all made once a session."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import support
from support.bundles import small_bundle
from support.scripts import load_script
from support.stores import AZURE_ENVIRONMENT, STORES, Bucket, Store

from mmray.bundle import Bundle

if TYPE_CHECKING:
    from support.serving import Guarded, Served

# For the stores on loopback; set before anything starts, so that Ray's workers inherit them.
_cache = tempfile.TemporaryDirectory(prefix="mmray-cache-")
os.environ |= {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
    "MMRAY_CACHE": _cache.name,
    **AZURE_ENVIRONMENT,
}


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Bytes are named by their argument: some hold the time, and two processes must name a test alike."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of synthetic shards: 240 records, every fifth member missing."""
    directory = tmp_path_factory.mktemp("data") / "synthetic"
    load_script("datasets/synthetic.py").build(directory, rows=240, shard_rows=40, missing=0.2, seed=1)
    return directory


@pytest.fixture(scope="session")
def bundle(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with small random encoders and a trained head, built by the same path as the real one."""
    from mmray.importing.build import build_bundle
    from mmray.models.encoders import tiny_encoders

    inputs = [str(shards)]
    return build_bundle(inputs, tmp_path_factory.mktemp("bundles") / "tiny", tiny_encoders(inputs))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local cluster of two CPUs for every test that needs one; what it serves has the usual ingress."""
    # A bundle of this size is soon replaced; each removal would wait five seconds for the ingress to notice.
    os.environ["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] = "1"
    os.environ["RAY_metrics_report_interval_ms"] = "1000"  # noqa: SIM112  (Ray spells it so; not ten seconds)
    # Workers, and they alone, know the texts that break a process (support/deadly).
    path = os.environ.get("PYTHONPATH", "")
    deadly = str(Path(support.__file__).parent / "deadly")
    import ray

    import mmray.pipeline  # noqa: F401  (sets how loud Ray is, before it is imported)
    from mmray.serve.ingress import private_haproxy

    with private_haproxy(), tempfile.TemporaryDirectory(prefix="mmray-faults-") as faults:
        os.environ["MMRAY_FAULTS"] = faults
        os.environ["PYTHONPATH"] = f"{deadly}:{path}"
        ray.init(num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
        os.environ["PYTHONPATH"] = path
        yield
        ray.shutdown()


@pytest.fixture
def break_devices(ray_cluster: None) -> Iterator[Callable[[str], Path]]:
    """Makes all devices of workers "lost", or their graphs give "nan", until the flag that it gives goes."""
    made: list[Path] = []

    def act(how: str) -> Path:
        made.append(Path(os.environ["MMRAY_FAULTS"]) / how)
        made[-1].touch()
        return made[-1]

    yield act
    for flag in made:
        flag.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def server(ray_cluster: None) -> Iterator[Served]:
    """`mmray serve` of the small bundle."""
    from support.serving import start

    served = start(str(small_bundle().path))
    yield served
    served.server.close()


@pytest.fixture(scope="session")
def guarded_server(server: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """The same beside it, for those who know the token."""
    from support.serving import Guarded

    file = tmp_path_factory.mktemp("tokens") / "tokens"
    file.write_text("first-token\nsecond-token\n")
    with server.also("guarded", bundle=str(small_bundle().path), token_file=str(file)) as url:
        yield Guarded(url, "second-token")


@pytest.fixture(scope="session")
def cluster_address(ray_cluster: None) -> str:
    """For commands in processes of their own."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


@pytest.fixture(scope="session")
def store_of() -> Iterator[Callable[[str], Store]]:
    """Servers of stores, each started when it is first asked for."""
    started: dict[str, Store] = {}

    def act(kind: str) -> Store:
        if kind not in started:
            started[kind] = STORES[kind]()
        return started[kind]

    yield act
    for server in started.values():
        server.stop()


@pytest.fixture
def s3(store_of: Callable[[str], Store]) -> Bucket:
    """A bucket of the test's own, whose requests are counted and can be made to fail."""
    return store_of("s3").bucket()


@pytest.fixture(params=list(STORES))
def store(request: pytest.FixtureRequest, store_of: Callable[[str], Store]) -> Bucket:
    """A bucket of each store in turn."""
    return store_of(request.param).bucket()
