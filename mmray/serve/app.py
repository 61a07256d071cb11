"""Starting and stopping: `build` for `serve run` and `serve deploy`, `Server` for `mmray serve`."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import ray
from pydantic import ValidationError
from ray import serve
from ray.serve import Application
from ray.serve.config import HTTPOptions

from mmray.bundle import Bundle
from mmray.config import explain
from mmray.errors import ConfigError, EngineError, UsageError
from mmray.serve.deployments import application
from mmray.serve.ingress import private_haproxy
from mmray.serve.settings import ServeSettings

# Ray runs its workers at niceness 15, so that a batch job leaves the machine usable; a server that shares its
# machine would wait for everything else.
_SYSTEM = {"worker_niceness": 0}
_REQUEST_TIMEOUT_S = 120.0  # of anything that hangs; bodies and queues have tighter bounds


def build(args: Mapping[str, Any]) -> Application:
    """One bundle as a Serve application; `args` are the fields of `ServeSettings`.

    Raises:
        ConfigError: a key or a value is wrong.
        BundleError: no bundle there.
    """
    try:
        settings = ServeSettings.model_validate(args)
    except ValidationError as e:
        raise ConfigError(explain(e, ServeSettings, "args")) from e
    bundle = Bundle.open(settings.bundle)
    if settings.variant != "auto":
        bundle.check_variant(settings.variant)
    gpus = ray.is_initialized() and ray.cluster_resources().get("GPU", 0) >= 1  # type: ignore[no-untyped-call]
    return application(settings, settings.token_digests(), gpus=gpus)


class Server:
    """Serve on this machine: several bundles behind one port.

    Args:
        host: address to listen at.
        port: to listen at.

    Raises:
        UsageError: somebody listens there already, or RAY_ADDRESS names no cluster.
        EngineError: nothing comes to listen there.
    """

    def __init__(self, host: str, port: int) -> None:
        self._owns_ray = not ray.is_initialized()
        _check_free(host, port)
        with ExitStack() as ends:
            if self._owns_ray:
                _start_ray(ends)
            logging.getLogger("ray.serve").setLevel(logging.ERROR)
            options = HTTPOptions(host=host, port=port, request_timeout_s=_REQUEST_TIMEOUT_S)
            try:
                serve.start(http_options=options)
            except TimeoutError as e:
                raise _no_ingress() from e
            self._ends = ends.pop_all()
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def deploy(self, settings: ServeSettings, *, name: str = "mmray", prefix: str = "/") -> str:
        """Serve a bundle, in place of the one of this name if there is one; its URL, once it is warm.

        Raises:
            ConfigError, BundleError: as `build`.
            EngineError: the model does not load, or requests do not reach it.
        """
        app = build(settings.model_dump())
        try:
            serve.run(app, name=name, route_prefix=prefix)
        except TimeoutError as e:
            raise _no_ingress() from e
        except RuntimeError as e:
            status = serve.status().applications.get(name)
            raise EngineError(
                f"{settings.bundle}: does not come up: {status.message if status else e}"
            ) from e
        return self.url + prefix.rstrip("/")

    def remove(self, name: str) -> None:
        """Serve a bundle no longer; requests that were begun are finished."""
        serve.delete(name)

    def close(self) -> None:
        """Finish the requests that were begun, then end."""
        if not self._owns_ray:
            serve.shutdown()  # type: ignore[no-untyped-call]
            return
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
    """Where each bundle answers: one alone at /, several each under the name of its directory.

    Raises:
        UsageError: two directories of one name.
    """
    if len(bundles) == 1:
        return {bundles[0]: "/"}
    found = {bundle: f"/{Path(bundle.rstrip('/')).name}" for bundle in bundles}
    if len(set(found.values())) < len(bundles):
        raise UsageError(
            "two of the bundles have the same name; they answer under the names of their directories"
        )
    return found


def wait_for_end() -> None:
    """Until Ctrl-C or SIGTERM."""
    end = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: end.set())
    end.wait()


def _start_ray(ends: ExitStack) -> None:
    """Join the cluster that RAY_ADDRESS names, or start one; `ends` ends that again."""
    if "RAY_ADDRESS" not in os.environ:
        ends.enter_context(private_haproxy())
    try:
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
    ends.callback(ray.shutdown)


def _no_ingress() -> EngineError:
    return EngineError(
        "nothing listens: HAProxy did not start, as Serve's log in the session's directory of Ray says; "
        "with RAY_SERVE_ENABLE_HA_PROXY=0 Serve's own proxy listens instead"
    )


def _check_free(host: str, port: int) -> None:
    """Serve itself would only log that it cannot listen."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as e:
            raise UsageError(
                f"--port {port}: cannot listen at {host}: {e.strerror}; choose another one"
            ) from e
