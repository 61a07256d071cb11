"""`mmray serve`: bundles behind HTTP until Ctrl-C."""

from __future__ import annotations

from dataclasses import dataclass

from mmray.bundle import Bundle
from mmray.cli.display import print_line
from mmray.errors import UsageError
from mmray.serve.app import Server, prefixes, wait_for_end
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


def serve_bundles(bundles: list[str], asked: Asked) -> None:
    """Serve them until a signal ends it; requests that were begun are finished.

    Raises:
        UsageError: an option or a bundle that cannot be served; nothing was started.
        EngineError: a model does not load.
    """
    least, most = _replicas(asked.replicas)
    places = prefixes(bundles)
    settings = {
        bundle: ServeSettings(
            bundle=bundle,
            variant=asked.variant,
            topology=asked.topology,
            min_replicas=least,
            max_replicas=most,
            token_file=asked.token_file,
        )
        for bundle in bundles
    }
    for one in settings.values():
        Bundle.open(one.bundle)
        one.token_digests()
    with Server(asked.host, asked.port) as server:
        for bundle, prefix in places.items():
            url = server.deploy(settings[bundle], name=prefix.strip("/") or "mmray", prefix=prefix)
            print_line(f"{bundle} is served at {url}")
        wait_for_end()
        print_line("finishing what was begun")


def _replicas(text: str) -> tuple[int, int]:
    least, _, most = text.partition(":")
    try:
        found = int(least), int(most or least)
    except ValueError:
        found = 0, 0
    if not 1 <= found[0] <= found[1]:
        raise UsageError(f"--replicas {text}: expected a number, or MIN:MAX")
    return found
