"""`mmray serve`: bundles behind HTTP until Ctrl-C."""

from __future__ import annotations

import os
from dataclasses import dataclass

from mmray.bundle import Bundle
from mmray.cli.display import print_error, print_line
from mmray.confidence import least_score
from mmray.config import with_assignments
from mmray.errors import EngineError, Interrupted, UsageError
from mmray.serve import traces
from mmray.serve.app import Server, is_public, prefixes
from mmray.serve.ending import Ending
from mmray.serve.settings import ServeSettings, Topology


@dataclass(frozen=True)
class Asked:
    """The options of the command."""

    host: str
    port: int
    replicas: str  # N, or MIN:MAX
    variant: str
    topology: Topology
    token_file: str | None
    client_connections: int
    set: tuple[str, ...] = ()  # key=value, of ServeSettings
    traces: str | None = None  # "otlp", or a directory
    trace_share: float = 1.0


def serve_bundles(bundles: list[str], asked: Asked) -> None:
    """Serve bundles until a signal; open requests are finished.

    Raises:
        UsageError: an option or a bundle is unusable; nothing was started.
        EngineError: a model does not load, or Ray failed.
        Interrupted: a signal came before all bundles were served.
    """
    least, most = _replicas(asked.replicas)
    places = prefixes(bundles)
    settings = {
        bundle: with_assignments(
            ServeSettings,
            {
                "bundle": bundle,
                "variant": asked.variant,
                "topology": asked.topology,
                "min_replicas": least,
                "max_replicas": most,
                "token_file": asked.token_file,
            },
            asked.set,
        )
        for bundle in bundles
    }
    public = is_public(asked.host)
    for one in settings.values():
        least_score(Bundle.open(one.bundle), one.variant, one.abstain)
        guarded = one.token_digests(public=public)
    tracing = traces.config(asked.traces, asked.trace_share)
    with Ending() as ending:
        try:
            server = Server(
                asked.host, asked.port, client_connections=asked.client_connections, tracing=tracing
            )
            with server:
                ending.listen()
                if public and not guarded:
                    print_line(
                        f"anyone who reaches {asked.host} may use it: set MMRAY_TOKEN, or --token-file"
                    )
                for bundle, prefix in places.items():
                    url = server.deploy(settings[bundle], name=prefix.strip("/") or "mmray", prefix=prefix)
                    ending.code = 0
                    print_line(f"{bundle} is served at {url}")
                _wait(server)
        except (KeyboardInterrupt, SystemExit):  # the latter from Ray's own handler, during its start
            if ending.code:
                raise Interrupted("interrupted before the server was ready") from None


def _wait(server: Server) -> None:
    try:
        server.wait()
    except KeyboardInterrupt:
        print_line("finishing open requests")
    except EngineError as e:
        # Ray's shutdown would wait for dead processes. Everything that it started ends with this process.
        print_error(str(e))
        os._exit(e.exit_code)


def _replicas(text: str) -> tuple[int, int]:
    least, _, most = text.partition(":")
    try:
        found = int(least), int(most or least)
    except ValueError:
        found = 0, 0
    if not 1 <= found[0] <= found[1]:
        raise UsageError(f"--replicas {text}: expected a number, or MIN:MAX")
    return found
