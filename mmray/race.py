"""Which variant to run, and how: the requested one, or the fastest in a race for this type of machine."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from mmray.batching import blank, full_batch
from mmray.bundle import FP32, Bundle
from mmray.digests import sealed, unsealed
from mmray.engine import Engine, Provider, best_provider, device_type, engine_version
from mmray.errors import BundleError, EngineError
from mmray.loading import open_engine
from mmray.shapes import Ladder, cpu_rows
from mmray.storage import Location, cache_directory

_ROUNDS = 5  # of all forms in turn, so that other load on the machine affects all of them
_FASTER = 0.95  # a form must need at most this share of the default's time; a smaller gain may be chance
# On a GPU these are slower than float32 (docs/gpu.md): int8 there is TensorRT's.
_QUANTIZED = (b"QuantizeLinear", b"MatMulInteger", b"ConvInteger")

_Run = Callable[[], object]


class Form(NamedTuple):
    """A variant, and whether its convolutions run channels-last on a GPU."""

    variant: str
    nhwc: bool = False

    def __str__(self) -> str:
        return f"{self.variant} nhwc" if self.nhwc else self.variant


class Choice(NamedTuple):
    """What to run."""

    variant: str
    nhwc: bool = False
    rows_per_s: float | None = None  # of one device or thread in the race; None if there was no race


def choose(
    bundle: Bundle,
    wanted: str,
    *,
    provider: Provider = "auto",
    threads: int = 1,
    ladder: Ladder | None = None,
    cache: Path | None = None,
) -> Choice:
    """The requested variant, or for "auto" the fastest on this machine, in its fastest form.

    The race of "auto" includes variants that passed the gate, are made for this provider, and run on it; no
    cascade, which may answer differently and so must be named. The result is cached by the bundle, the type
    of device, the version of ONNX Runtime, the threads and the ladder.

    Args:
        bundle: an opened bundle.
        wanted: name of a variant, or "auto".
        provider: where to run.
        threads: threads of one inference.
        ladder: sizes of the batches: the race uses a typical one. None: those of a CPU, of the bundle's
            golden records with the most modalities.
        cache: permanent directory; None: the default one.

    Raises:
        BundleError: no such variant, or one that did not pass its gate.
        EngineError: for "auto", fp32 does not run on this provider.
    """
    chosen: Provider = best_provider() if provider == "auto" else provider
    if wanted != "auto":
        bundle.check_variant(wanted)
    forms = candidates(bundle, wanted, chosen)
    if len(forms) == 1:
        return Choice(*forms[0])
    about = f"{bundle.digest} {wanted} {chosen} {device_type(chosen)} {engine_version()} {threads}"
    about += f" {ladder.to_json()}" if ladder else ""
    races = (cache or cache_directory()) / "races"
    place = Location.parse(races / f"{hashlib.sha256(about.encode()).hexdigest()[:24]}.json")
    known = _read(place)
    if (form := Form(str(known.get("variant")), known.get("nhwc") is True)) in forms:
        return Choice(*form, _rate(known.get("rows_per_s")))
    times, rows = race(bundle, forms, chosen, threads, ladder)
    usual = Form(wanted if wanted != "auto" else FP32)
    winner = min(times, key=times.__getitem__)
    if times[winner] > _FASTER * times[usual]:
        winner = usual
    choice = Choice(*winner, round(rows / times[winner], 1))
    batch_ms = {str(form): round(seconds * 1e3, 3) for form, seconds in times.items()}
    Location.parse(races).make_directory()
    place.write_atomically(sealed({**choice._asdict(), "batch_ms": batch_ms, "of": about}))
    return choice


def candidates(bundle: Bundle, wanted: str, provider: Provider) -> list[Form]:
    """Forms in the race."""
    entries = bundle.manifest.variants
    names = [wanted]
    if wanted == "auto":
        names = [
            name
            for name in bundle.passing()
            if entries[name].provider in ("any", provider) and entries[name].cascade is None
        ]
    if wanted == "auto" and provider in ("cuda", "openvino"):  # slow on the one, other answers on the other
        names = [
            name  # fp32 is the baseline, even if an imported graph has integer operators
            for name in names
            if name == FP32 or not (entries[name].precision == "int8" or is_quantized(bundle.graph(name)))
        ]
    if provider != "cuda" or any(entries[name].cascade for name in names):
        return [Form(name) for name in names]
    return [Form(name, nhwc) for name in names for nhwc in (False, True)]


def is_quantized(graph: Path) -> bool:
    """Whether an ONNX file has operators on integers, by their names in its bytes."""
    if not graph.is_file() or not graph.stat().st_size:
        return False
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return any(data.find(name) >= 0 for name in _QUANTIZED)


def _read(place: Location) -> dict[str, object]:
    """The result of an earlier race; empty if there was none, or if the file is damaged."""
    try:
        return unsealed(place.read_bytes())
    except OSError:  # it is run again
        return {}


def _rate(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def race(
    bundle: Bundle, forms: Sequence[Form], provider: Provider, threads: int, ladder: Ladder | None
) -> tuple[dict[Form, float], int]:
    """Seconds of a batch by form, the best of some rounds, without those that do not run; and its rows."""
    runs: dict[Form, _Run] = {}
    rows = ladder.typical.rows if ladder else cpu_rows(bundle.spec)
    for form in forms:
        try:
            engine = open_engine(
                bundle, form.variant, provider=provider, threads=threads, ladder=ladder, nhwc=form.nhwc
            )
            runs[form] = _batch(bundle, engine, ladder)
            runs[form]()  # warm
            if engine.compiled:
                engine.compiled.keep()
        except BundleError:  # altered: not a reason to run another variant
            raise
        except Exception as e:  # ONNX Runtime's own exception types share no base
            if form == forms[0]:
                raise EngineError(f"{bundle.path}: does not run on {provider}: {e}") from e
            runs.pop(form, None)
    times = dict.fromkeys(runs, float("inf"))
    for _ in range(_ROUNDS):
        for form, run in runs.items():
            start = perf_counter()
            run()
            times[form] = min(times[form], perf_counter() - start)
    return times, rows


def _batch(bundle: Bundle, engine: Engine, ladder: Ladder | None) -> _Run:
    """Runs one batch like the job's: a padded one with its copies, or complete golden records."""
    if ladder is None:
        # Each subset of the modalities is missing in some golden record, so a batch of all of them would have
        # a third of a job's pictures, and another variant might win.
        feeds = full_batch(bundle.golden()[0], cpu_rows(bundle.spec))
        return lambda: engine(feeds)
    bound = engine.bound(blank(bundle.spec, ladder.typical))

    def run() -> None:
        bound.send()
        bound.compute()
        bound.fetch()

    return run
