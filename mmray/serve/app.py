"""Starting and stopping: `build` for `serve run` and `serve deploy`, `Server` for `mmray serve`."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any

import ray
from pydantic import ValidationError
from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.config import HTTPOptions
from ray.serve.exceptions import RayServeException
from ray.serve.schema import TracingConfig

from mmray.bundle import Bundle
from mmray.canary import check_canary
from mmray.confidence import least_score
from mmray.config import explain
from mmray.errors import ConfigError, EngineError, UsageError, one_line
from mmray.ray_address import check_ray_address, muted
from mmray.serve.deployments import application
from mmray.serve.ingress import CLIENT_CONNECTIONS, drain, guarded, private_haproxy
from mmray.serve.ports import check_free
from mmray.serve.settings import ServeSettings

# Ray runs its workers at niceness 15, so that a batch job leaves the machine usable; a server that shares its
# machine would wait for everything else.
_SYSTEM = {"worker_niceness": 0}
_REQUEST_TIMEOUT_S = 120.0  # for anything that hangs; bodies and queues have tighter bounds
_DRAIN_S = 3.0  # for open requests when the server stops
_LOOK_S = 0.5  # between two checks of Ray


def build(args: Mapping[str, Any]) -> Application:
    """One bundle as a Serve application; `args` are the fields of `ServeSettings`.

    Raises:
        ConfigError: a key or a value is wrong, or a token too weak: the clients are not known here.
        BundleError: not a bundle.
    """
    try:
        settings = ServeSettings.model_validate(args)
    except ValidationError as e:
        raise ConfigError(explain(e, ServeSettings, "args")) from e
    return _build(settings, public=True)


def _build(settings: ServeSettings, *, public: bool) -> Application:
    tokens = settings.token_digests(public=public)
    bundle = Bundle.open(settings.bundle)
    if settings.variant != "auto":
        bundle.check_variant(settings.variant)
    least_score(bundle, settings.variant, settings.abstain)
    if settings.canary:
        check_canary(bundle, settings.canary)
    gpus = ray.is_initialized() and ray.cluster_resources().get("GPU", 0) >= 1  # type: ignore[no-untyped-call]
    return application(settings, tokens, gpus=gpus)


class Server:
    """Serve on this machine: several bundles behind one port.

    Args:
        host: address to listen at.
        port: to listen at.
        client_connections: maximum open connections of one client address, if HAProxy listens.
        tracing: from `mmray.serve.traces.config`, called before.

    Raises:
        UsageError: the port is in use, or RAY_ADDRESS names no cluster.
        EngineError: Ray does not start, or nothing listens there in time.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        client_connections: int = CLIENT_CONNECTIONS,
        tracing: TracingConfig | None = None,
    ) -> None:
        self._owns_ray = not ray.is_initialized()
        self._haproxy: Path | None = None
        #: Whether other machines can reach the server.
        self.public = is_public(host)
        check_free(host, port)
        with ExitStack() as ends:
            if self._owns_ray:
                self._haproxy = _start_ray(ends, client_connections)
            logging.getLogger("ray.serve").setLevel(logging.ERROR)
            options = HTTPOptions(host=host, port=port, request_timeout_s=_REQUEST_TIMEOUT_S)
            try:
                serve.start(http_options=options, tracing_config=tracing)
            except TimeoutError as e:
                raise _no_ingress() from e
            except (RuntimeError, RayError, RayServeException) as e:
                raise EngineError(f"Ray Serve does not start: {one_line(e)}; see Ray's logs") from e
            self._ends = ends.pop_all()
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def deploy(self, settings: ServeSettings, *, name: str = "mmray", prefix: str = "/") -> str:
        """Serve a bundle, replacing the one of this name, if any; returns its URL once it is warm.

        Raises:
            ConfigError, BundleError: as `build`.
            EngineError: the model does not load, or requests do not reach it.
        """
        app = _build(settings, public=self.public)
        try:
            serve.run(app, name=name, route_prefix=prefix)
        except TimeoutError as e:
            raise _no_ingress() from e
        except RuntimeError as e:
            status = serve.status().applications.get(name)
            raise EngineError(f"{settings.bundle}: does not start: {status.message if status else e}") from e
        return self.url + prefix.rstrip("/")

    def remove(self, name: str) -> None:
        """Stop serving a bundle; open requests are finished."""
        serve.delete(name)

    def wait(self) -> None:
        """Wait for a signal (see `Ending`).

        Raises:
            EngineError: the Ray that was started here died.
        """
        while not self._owns_ray or ray_lives():
            time.sleep(_LOOK_S)
        raise EngineError(
            "Ray has died; see its logs in the session's directory, then start the server again"
        )

    def close(self) -> None:
        """Finish open requests, then stop."""
        if not self._owns_ray:
            serve.shutdown()  # type: ignore[no-untyped-call]
            return
        if ray_lives():
            if self._haproxy:
                drain(self._haproxy, _DRAIN_S)
            else:
                for name in serve.status().applications:
                    serve.delete(name)
        self._ends.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def prefixes(bundles: Sequence[str]) -> dict[str, str]:
    """The path of each bundle: a single one at /, several under the names of their directories.

    Raises:
        UsageError: two directories of one name.
    """
    if len(bundles) == 1:
        return {bundles[0]: "/"}
    found = {bundle: f"/{Path(bundle.rstrip('/')).name}" for bundle in bundles}
    if len(set(found.values())) < len(bundles):
        raise UsageError(
            "two of the bundles have the same name, which is their path; rename one of the directories"
        )
    return found


def ray_lives() -> bool:
    """Whether the Ray that was started here runs, by its processes: its client would wait for a minute."""
    node = ray._private.worker._global_node
    return node is None or not {name for name, _ in node.dead_processes()} & {"gcs_server", "raylet"}


def _start_ray(ends: ExitStack, client_connections: int) -> Path | None:
    """Join the cluster of RAY_ADDRESS, or start one, which `ends` stops. Returns HAProxy's directory."""
    haproxy = None
    check_ray_address()
    try:
        if "RAY_ADDRESS" not in os.environ:
            haproxy = ends.enter_context(private_haproxy(client_connections))
            ends.enter_context(guarded(haproxy))
        with muted():
            ray.init(
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
                _system_config=_SYSTEM,
            )
    except ConnectionError as e:
        raise UsageError(
            f"RAY_ADDRESS={os.environ.get('RAY_ADDRESS')}: no Ray cluster answers there: {e}"
        ) from e
    except (RuntimeError, OSError, RayError) as e:  # no room on the disk, no port, no process
        raise EngineError(f"Ray does not start: {one_line(e)}; see Ray's logs") from e
    ends.callback(ray.shutdown)
    _keep_token_private()
    return haproxy


def _no_ingress() -> EngineError:
    return EngineError(
        "nothing listens: HAProxy did not start; see Serve's log in Ray's session directory, or "
        "set RAY_SERVE_ENABLE_HA_PROXY=0 to use Serve's own proxy"
    )


def _keep_token_private() -> None:
    """Protect Ray's token: it allows running code here, but Ray writes it readable for all users."""
    token = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):
        token.chmod(0o600)


def is_public(host: str) -> bool:
    """Whether other machines can reach a server that listens at this address."""
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"
