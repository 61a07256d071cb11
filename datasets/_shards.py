"""Write records as WebDataset shards: the same bytes for the same options, or nothing at all.

Owns the layout of a data set (`train-000000.tar`, `tune-000000.tar`, …, `dataset.json`), the split by caption
group where the source has none of its own, the dropping of modalities and the check whether a data set is
already there. A set is made in a temporary folder beside its place, `dataset.json` last, and then moved.
Refuses to replace a folder that it did not make. Knows nothing of where records come from.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import time
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import typer

from mmray.errors import ConfigError, InputError, OutputError
from mmray.schema import MODALITIES, Modality

Split = Literal["train", "tune", "test"]
SPLITS: tuple[Split, ...] = ("train", "tune", "test")

FORMAT = 2  # raised when the bytes of a set change for the same options, so that old sets are made anew
TEST_SHARE = 0.2
TUNE_SHARE = 0.25  # of what is not test
MANIFEST = "dataset.json"


class Draft(Protocol):
    """A record before its bytes are made: enough to choose, split and shuffle it."""

    @property
    def key(self) -> str:
        """Name of the record in its shard: no dots, at most 90 ASCII characters."""

    @property
    def label(self) -> str:
        """Class of the record."""

    @property
    def group(self) -> str:
        """Caption group: records that say the same. Splits by group never cut one."""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Modalities that the record can have; at least one."""

    def members(self, kept: tuple[Modality, ...]) -> dict[str, bytes]:
        """Bytes of each kept modality by member extension (``"png"``, ``"txt"``, ``"ogg"``)."""

    def meta(self, kept: tuple[Modality, ...]) -> dict[str, object]:
        """Further fields of the JSON member; a `split` there goes before the writer's."""


@dataclass(frozen=True)
class Options:
    """What a data set depends on, apart from its source.

    Raises:
        ConfigError: a value is out of range.
    """

    rows: int | None = None  # records in all splits together; None takes all
    shard_rows: int = 100
    languages: tuple[str, ...] = ("en",)
    missing: float = 0.0  # probability of dropping each modality of each record
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rows is not None and self.rows < 1:
            raise ConfigError(f"--rows {self.rows}: must be 1 or more")
        if self.shard_rows < 1:
            raise ConfigError(f"--shard-rows {self.shard_rows}: must be 1 or more")
        if not 0.0 <= self.missing <= 1.0:
            raise ConfigError(f"--missing {self.missing}: must be a probability, from 0 to 1")
        if not self.languages:
            raise ConfigError("--languages: name at least one, such as en")


@dataclass(frozen=True)
class Source:
    """Where the records come from, as told in `dataset.json`. `name` decides whether a set is the same."""

    name: str
    version: str
    licence: str
    left_out: dict[str, int] = field(default_factory=dict)


def parse_languages(text: str) -> tuple[str, ...]:
    """``"en,pt_BR,en"`` → ``("en", "pt_br")``: lower case, in order, each once."""
    return tuple(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))


def caption_group(english: str) -> str:
    """Id of a caption, 12 hex digits: equal where only case, punctuation or spacing differ."""
    plain = unicodedata.normalize("NFKC", english).casefold()
    return hashlib.sha256(" ".join(re.findall(r"\w+", plain)).encode()).hexdigest()[:12]


def split_of(group: str, seed: int) -> Split:
    """Split of a caption group: the same for all its records, whatever other records there are."""
    if _draw(f"split:{seed}:{group}") < TEST_SHARE:
        return "test"
    return "tune" if _draw(f"tune:{seed}:{group}") < TUNE_SHARE else "train"


def _draw(text: str) -> float:
    """A number from 0 to 1 that only the text decides."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def kept_modalities(draft: Draft, missing: float, seed: int) -> tuple[Modality, ...]:
    """Drop each modality with probability `missing`, independently; one at random stays if none would."""
    rng = random.Random(f"missing:{seed}:{draft.key}")
    draws = {modality: rng.random() for modality in MODALITIES}
    kept = tuple(m for m in draft.modalities if draws[m] >= missing)
    return kept or (rng.choice(draft.modalities),)


def already_there(output: Path, source_name: str, options: Options) -> bool:
    """Whether `output` holds a complete set of this source and these options; says so if it does.

    Raises:
        OutputError: something else lies there.
    """
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output}: is a file; give another --output")
    if not output.is_dir() or not any(output.iterdir()):
        return False
    try:
        manifest = json.loads((output / MANIFEST).read_text("utf-8"))
        same: bool = manifest["made_from"] == _made_from(source_name, options)
        shards: dict[str, dict[str, int]] = manifest["shards"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise OutputError(
            f"{output}: holds something else than a data set of ours (no sound {MANIFEST}); "
            "remove it or give another --output"
        ) from None
    same = same and all(_bytes(output / name) == shard["bytes"] for name, shard in shards.items())
    if same:
        typer.echo(f"already there: {output} ({sum(shard['rows'] for shard in shards.values())} records)")
    return same


def write(
    output: Path,
    drafts: Sequence[Draft],
    source: Source,
    options: Options,
    parts: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Choose, split, shuffle and write `drafts`; then put the set in its place.

    The first `rows` of a seeded shuffle are taken, so a larger set contains the smaller one.

    Args:
        output: folder of the set.
        drafts: the records.
        source: where they come from.
        options: what is taken of them, and how.
        parts: the part of the set that each key's record goes to, which names its shards and, unless `meta`
            does, its split; default: `split_of` its group.

    Returns:
        The manifest, as in `dataset.json`.

    Raises:
        InputError: there are no drafts, or two have the same key.
    """
    if not drafts:
        raise InputError(f"{source.name}: no usable record for languages {', '.join(options.languages)}")
    twice = [key for key, count in Counter(d.key for d in drafts).items() if count > 1]
    if twice:
        raise InputError(f"{source.name}: two records have the key {twice[0]!r}; rename one at the source")
    start_s = time.perf_counter()
    chosen = sorted(drafts, key=lambda d: d.key)  # a shuffle is only reproducible from a known order
    random.Random(f"order:{options.seed}").shuffle(chosen)
    chosen = chosen[: options.rows]
    output.parent.mkdir(parents=True, exist_ok=True)
    work = output.with_name(f".{output.name}.making-{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        parts = parts or {d.key: split_of(d.group, options.seed) for d in chosen}
        manifest = _write_all(work, chosen, source, options, parts)
        _publish(work, output)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for split, counts in manifest["counts"].items():
        have = ", ".join(f"{name} {count}" for name, count in counts["modalities"].items())
        typer.echo(f"{split}: {counts['rows']} records, {counts['shards']} shards ({have})")
    typer.echo(f"wrote {output} in {time.perf_counter() - start_s:.1f} s")
    return manifest


def _write_all(
    work: Path, chosen: Sequence[Draft], source: Source, options: Options, parts: Mapping[str, str]
) -> dict[str, Any]:
    shards: dict[str, dict[str, int]] = {}
    counts: dict[str, dict[str, Any]] = {}
    for part in (*SPLITS, *sorted(set(parts.values()) - set(SPLITS))):
        members = [d for d in chosen if parts[d.key] == part]
        if not members:
            continue
        modalities: Counter[str] = Counter()
        starts = range(0, len(members), options.shard_rows)
        for number, start in enumerate(starts):
            rows = members[start : start + options.shard_rows]
            path = work / f"{part}-{number:06d}.tar"
            modalities.update(_write_shard(path, rows, part, source, options))
            shards[path.name] = {"rows": len(rows), "bytes": path.stat().st_size}
        counts[part] = {
            "rows": len(members),
            "shards": len(starts),
            "labels": dict(sorted(Counter(d.label for d in members).items())),
            "modalities": {m: modalities[m] for m in MODALITIES},
        }
    manifest = {
        "made_from": _made_from(source.name, options),
        **asdict(source),
        "counts": counts,
        "shards": shards,
    }
    (work / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return manifest


def _write_shard(
    path: Path, rows: Sequence[Draft], part: str, source: Source, options: Options
) -> Counter[str]:
    """Write one tar; returns how many of its records have each modality."""
    import webdataset  # here: it imports torch where there is one, 1.5 s that "already there" need not wait

    counts: Counter[str] = Counter()
    # Fixed owner and time: the same records give the same bytes on any machine, at any time.
    with path.open("wb") as file, webdataset.TarWriter(file, "root", "root", encoder=False, mtime=0.0) as tar:
        for draft in rows:
            kept = kept_modalities(draft, options.missing, options.seed)
            meta = {
                "label": draft.label,
                "caption_group": draft.group,
                "split": part,
                "modalities": list(kept),
                **draft.meta(kept),
                "licence": source.licence,
                "source": source.name,
            }
            payload = json.dumps(meta, ensure_ascii=False).encode()
            tar.write({"__key__": draft.key, **draft.members(kept), "json": payload})
            counts.update(kept)
    return counts


def _made_from(source_name: str, options: Options) -> dict[str, Any]:
    values = asdict(options) | {"languages": list(options.languages)}
    return {"format": FORMAT, "source": source_name, **values}


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _publish(work: Path, output: Path) -> None:
    """Move the finished folder into place; an older set goes only when the new one is whole."""
    if output.exists():
        old = output.with_name(f".{output.name}.old-{os.getpid()}")
        output.rename(old)
        work.rename(output)
        shutil.rmtree(old)
    else:
        work.rename(output)
