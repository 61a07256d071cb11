"""`mmray predict`: one record from files, without a server; the answer is that of `POST /v1/predict`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict
from rich.bar import Bar
from rich.markup import escape
from rich.table import Table

from mmray.bundle import Bundle
from mmray.cli.display import console, print_json, print_line
from mmray.confidence import Abstain
from mmray.config import with_assignments
from mmray.errors import EngineError, InputError
from mmray.predictor import Predictor, open_preprocessor
from mmray.preprocess.spec import Limits
from mmray.schema import RECORDS, Modality, table
from mmray.serve.answers import explained, latency_ms, left_out, prediction
from mmray.unread import OnForeignText, remedy_of

_SHOWN = 10  # labels; --json has all
_BAR_WIDTH = 32


@dataclass(frozen=True)
class Given:
    """The user's record; None for a missing modality."""

    image: Path | None
    text: str | None
    audio: Path | None


class Settings(BaseModel):
    """Keys of `--set`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    variant: str = "auto"
    abstain: Abstain = "auto"
    limits: Limits = Limits()
    foreign_text: OnForeignText = "keep"  # whether a text that the model does not read counts as missing


def predict_record(
    directory: str, given: Given, *, explain: bool, as_json: bool, assignments: Sequence[str] = ()
) -> None:
    """Predict one record and show the answer.

    Args:
        directory: of the bundle.
        given: at least one modality that the bundle takes.
        explain: also predict without each modality.
        as_json: print what the server would answer.
        assignments: ``key=value`` of `Settings`.

    Raises:
        InputError: a file cannot be read or decoded, or the bundle takes none of the modalities.
        EngineError: the model does not run here, or gives no finite answer.
        ConfigError: a setting is wrong, the bundle does not support the risk, or the package that detects
            languages is missing.
    """
    settings = with_assignments(Settings, {}, assignments)
    bundle = Bundle.open(directory)
    members = _members(bundle, given, settings.limits)
    preprocess = open_preprocessor(bundle, limits=settings.limits, foreign_text=settings.foreign_text)
    predict = Predictor(bundle, variant=settings.variant, abstain=settings.abstain)
    start = perf_counter()
    tensors = preprocess(table(members, RECORDS))
    preprocessed = perf_counter()
    _check(tensors, bundle, given)
    without = left_out(tensors) if explain else {}
    outcomes = predict(pa.concat_tables([tensors, *without.values()]))
    _check(outcomes, bundle, given)
    answers = outcomes.to_pylist()
    answer = prediction(answers[0], bundle.labels, None)
    done = perf_counter()
    answer["latency_ms"] = latency_ms(
        preprocess_s=preprocessed - start, model_s=predict.seconds["model"], total_s=done - start
    )
    if explain:
        answer["without"] = explained(dict(zip(without, answers[1:], strict=True)))
    if as_json:
        print_json(answer)
    else:
        _print_answer(answer)


def _members(bundle: Bundle, given: Given, limits: Limits) -> dict[str, list[bytes]]:
    """Columns of RECORDS for what is given."""
    files: dict[Modality, Path | None] = {"image": given.image, "audio": given.audio}
    members: dict[str, list[bytes]] = {
        m: [_read(m, file, limits.member_bytes)] for m, file in files.items() if file is not None
    }
    if given.text is not None:
        # The shell's bytes, even if they are not UTF-8: preprocessing reports that.
        members["text"] = [given.text.encode("utf-8", "surrogateescape")]
    takes = bundle.spec.modalities
    for modality in members:
        if modality not in takes:
            raise InputError(f"--{modality}: {bundle.path} takes only {', '.join(takes)}; leave it out")
    if not members:
        raise InputError(f"no record: give at least one of {', '.join(f'--{m}' for m in takes)}")
    return members


def _read(modality: Modality, file: Path, most_bytes: int) -> bytes:
    try:
        size = file.stat().st_size
        if size > most_bytes:
            raise InputError(f"--{modality} {file}: {size:,} bytes; at most {most_bytes:,} are read")
        return file.read_bytes()
    except OSError as e:
        raise InputError(f"--{modality} {file}: cannot be read ({e.strerror}); check the path") from e


def _check(rows: pa.Table, bundle: Bundle, given: Given) -> None:
    """Raise the first row's error, naming the option that caused it."""
    fault = rows["error"][0].as_py()
    if fault is None:
        return
    kind, reason = fault["type"], fault["reason"]
    if fault["stage"] != "preprocess":
        raise EngineError(f"{bundle.path}: {reason} ({kind})")
    option = kind.partition("-")[0]
    place = f" {path}" if isinstance(path := getattr(given, option, None), Path) else ""
    raise InputError(f"--{option}{place}: {reason} ({kind}); give another one or leave it out")


def _print_answer(answer: dict[str, Any]) -> None:
    source = f"from {' + '.join(answer['modalities'])}, variant {answer['variant']}"
    for kind in answer.get("unread", ()):
        print_line(f"{kind}; {remedy_of(kind)}")
    if "label" not in answer:
        print_line(f"{len(answer['features'])} features {source}; --json prints them")
        return
    console.print(f"[bold]{escape(_named(answer))}[/] {answer['score']:.3f} [dim]{escape(source)}[/]")
    bars = Table.grid(padding=(0, 2, 0, 0))
    for label, score in list(answer["scores"].items())[:_SHOWN]:
        bars.add_row(escape(label), Bar(1.0, 0.0, score, width=_BAR_WIDTH), f"{score:.3f}")
    console.print(bars)
    if len(answer["scores"]) > _SHOWN:
        print_line(f"and {len(answer['scores']) - _SHOWN} more: --json has all")
    for modality, left in answer.get("without", {}).items():
        changed = "" if left["label"] == answer["label"] else ": another label"
        print_line(f"without {modality}: {_named(left)} {left['score']:.3f}{changed}")
    took = answer["latency_ms"]
    print_line(f"preprocessing {took['preprocess']:.0f} ms, model {took['model']:.0f} ms")


def _named(decision: dict[str, Any]) -> str:
    return decision["label"] or "no label (score too low):"
