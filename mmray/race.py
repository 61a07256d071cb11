"""Which variant to run: as asked, or the fastest here, by a short race, run once for each kind of machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from time import perf_counter
from typing import Any

from mmray.batching import Feeds
from mmray.bundle import FP32, Bundle
from mmray.engine import Engine, Provider, best_provider, device_type, engine_version
from mmray.errors import EngineError
from mmray.loading import open_engine
from mmray.storage import Location, cache_directory

_ROUNDS = 5  # of all variants in turn, so that a busy moment of the machine meets each of them
_FASTER = 0.95  # a variant must need at most this share of fp32's time; less may be chance


def choose_variant(bundle: Bundle, wanted: str, *, provider: Provider = "auto", threads: int = 1) -> str:
    """Name of the variant to run: the one that is wanted, or for "auto" the fastest on this machine.

    Raises:
        BundleError: no such variant, or one that did not pass its gate.
        EngineError: for "auto", fp32 does not run on this provider.
    """
    if wanted == "auto":
        return fastest_variant(bundle, cache_directory(), provider=provider, threads=threads)
    bundle.check_variant(wanted)
    return wanted


def fastest_variant(bundle: Bundle, cache: Path, *, provider: Provider = "auto", threads: int = 1) -> str:
    """Name of the variant that runs the bundle's golden inputs in the least time on this machine.

    Takes part who passed the gate, is made for this provider, and runs on it; no cascade, which may answer
    otherwise and so must be asked for. The answer is kept in the cache
    under the bundle, the kind of device, the version of ONNX Runtime and the threads.

    Args:
        bundle: an opened bundle.
        cache: directory that lasts.
        provider: where to run.
        threads: threads of one inference.
    """
    chosen: Provider = best_provider() if provider == "auto" else provider
    entries = bundle.manifest.variants
    names = [
        name
        for name in bundle.passing()
        if entries[name].provider in ("any", chosen) and entries[name].cascade is None
    ]
    if names == [FP32]:
        return FP32
    about = f"{bundle.digest} {chosen} {device_type(chosen)} {engine_version()} {threads}"
    place = Location.parse(cache / "races" / f"{hashlib.sha256(about.encode()).hexdigest()[:24]}.json")
    known = _read(place)
    if known.get("winner") in names:
        return str(known["winner"])
    times = _race(bundle, names, chosen, threads)
    winner = min(times, key=times.__getitem__)
    if times[winner] > _FASTER * times[FP32]:
        winner = FP32
    milliseconds = {name: round(seconds * 1e3, 3) for name, seconds in times.items()}
    Location.parse(cache / "races").make_directory()
    place.write_atomically(json.dumps({"winner": winner, "batch_ms": milliseconds, "of": about}).encode())
    return winner


def _read(place: Location) -> dict[str, Any]:
    """A race that was run before; empty where there was none that can be read."""
    try:
        known = json.loads(place.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _race(bundle: Bundle, names: list[str], provider: Provider, threads: int) -> dict[str, float]:
    """Seconds of the golden batch by variant, the best of some rounds; without those that do not run."""
    inputs, _ = bundle.golden()
    engines: dict[str, Engine] = {}
    for name in names:
        try:
            engines[name] = open_engine(
                bundle, name, provider=provider, threads=threads, batch_rows=len(inputs["present"])
            )
            engines[name](inputs)  # warm
        except Exception as e:  # ONNX Runtime's own exception types share no base
            if name == FP32:
                raise EngineError(f"{bundle.path}: does not run on {provider}: {e}") from e
            engines.pop(name, None)
    times = dict.fromkeys(engines, float("inf"))
    for _ in range(_ROUNDS):
        for name, engine in engines.items():
            times[name] = min(times[name], _seconds(engine, inputs))
    return times


def _seconds(engine: Engine, inputs: Feeds) -> float:
    start = perf_counter()
    engine(inputs)
    return perf_counter() - start
