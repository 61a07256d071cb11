"""What is there before anything runs: bundle, shards, and a look at some records. Starts no cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmray.bundle import Bundle
from mmray.config import RunConfig
from mmray.errors import ConfigError, InputError, OutputError
from mmray.pipeline.rundir import WRITTEN
from mmray.schema import EMPTY, MODALITIES, OutputColumns, meta_fields
from mmray.sources import EXTENSIONS, ReadOptions, Shard, read, take_listing
from mmray.sources.apart import check_apart
from mmray.sources.lmdb import layout_of
from mmray.storage import Location
from mmray.unread import Tally, remedy_of

_SAMPLED_SHARDS = 3
_FIELDS_SHOWN = 20
_KINDS = {"webdataset": "WebDataset", "tfrecord": "TFRecord", "parquet": "Parquet"}

#: Settings that a resume must share with the run that it continues.
_SHAPES_OUTPUT = (
    *("variant", "modalities", "align", "scores", "features", "carry"),
    *("on_damaged", "on_unread", "limits", "extensions", "key_split", "captions", "lmdb"),
    *("interleaved", "regroup_rows"),
    *("verify_all", "on_shift"),
)


@dataclass(frozen=True)
class Census:
    """What the first records of a few shards look like."""

    records: int
    record_bytes: float  # mean
    sets: Mapping[str, int]  # "image+text+audio": records; "unreadable" for rows with an error
    kinds: tuple[str, ...] = ()  # formats of the sampled shards, of an LMDB with its layout
    fault: str = ""  # why the first of the unreadable records is so
    unread: Tally = field(default_factory=Tally)  # what is not read of them, by kind
    fields: Collection[str] = ()  # names that `carry` may ask for

    @property
    def modalities(self) -> dict[str, float]:
        """Share of the sampled records that have each modality."""
        total = max(1, self.records)
        return {m: sum(n for s, n in self.sets.items() if m in s.split("+")) / total for m in MODALITIES}


@dataclass(frozen=True)
class Survey:
    """A checked config with what it names."""

    config: RunConfig  # bundle and output made absolute: workers have other working directories
    bundle: Bundle
    shards: tuple[Shard, ...]
    census: Census
    notes: tuple[str, ...] = ()  # what is worth saying about the shards, in lines of their own
    unread_files: Tally = field(default_factory=Tally)  # what lies among the shards and is none, by kind

    @property
    def input_bytes(self) -> int:
        return sum(shard.size for shard in self.shards)

    @property
    def expected_rows(self) -> int:
        """Estimated from the sampled bytes a record."""
        return round(self.input_bytes / self.census.record_bytes)

    def identity(self) -> dict[str, Any]:
        """What a resume must have in common with the run that it continues: all that shapes the output."""
        config = self.config.model_dump(mode="json")
        return {
            "bundle": self.bundle.digest,
            "preprocessing": self.bundle.spec.digest(),
            **{key: config[key] for key in _SHAPES_OUTPUT},
        }

    def check_resumable(
        self,
        earlier: Mapping[str, Any] | None,
        *,
        accept_changes: bool = False,
        moved: bool = False,
        cures: Collection[str] = (),
        mended: Collection[str] = (),
    ) -> list[Shard]:
        """Refuse to continue a run, given its plan.json, with anything that would change its output.

        Args:
            earlier: content of plan.json; None where there is no run yet.
            accept_changes: shards may have come, or have changed: those are run anew.
            moved: files may have been copied in a way that keeps neither times nor versions.
            cures: settings that may differ.
            mended: ids of shards that may have changed.

        Returns:
            Shards that came or changed.

        Raises:
            OutputError: names what differs.
        """
        if earlier is None:
            return []
        place = self.config.output
        identity: dict[str, Any] = earlier.get("identity", {})
        for key, value in self.identity().items():
            before = identity.get(key)
            if before != value and key not in cures:
                remedy = "choose another --output, or the same settings to resume"
                if cures:
                    remedy = f"a retry may change only {', '.join(cures)}"
                raise OutputError(
                    f"{place}: was made with {key}={_short(before)}, now it is {_short(value)}; {remedy}"
                )
        then = _planned(earlier)
        now = {shard.id: shard for shard in self.shards}
        rewritten = self._rewritten(then, moved=moved)
        came = sorted(now[id].name for id in now.keys() - then.keys())
        went = sorted(then[id].name for id in then.keys() - now.keys())
        changed = sorted(set(came) & set(went))
        removed = sorted(set(went) - set(changed))
        if removed:
            raise OutputError(
                f"{place}: {len(removed)} shards of this run are gone ({', '.join(removed[:3])}); bring them "
                "back, or choose another --output"
            )
        may_change = {then[id].name for id in mended if id in then}
        unexpected = {*came, *(now[id].name for id in rewritten)} - may_change
        if unexpected and not accept_changes:
            counts = f"{len(came) - len(changed)} shards are new, {len(changed)} have another size"
            names = [*came[:3], *(f"{now[id].name}: {why}" for id, why in sorted(rewritten.items())[:3])]
            counts += f", {len(rewritten)} another content" if rewritten else ""
            copied = rewritten and not moved and not self._rewritten(then, moved=True)
            remedy = "; if they were only copied or touched, resume with --moved" if copied else ""
            raise OutputError(
                f"{place}: the input changed: {counts} ({', '.join(names)}); run them with --accept-changes, "
                f"or choose another --output{remedy}"
            )
        return [now[id] for id in sorted({*(now.keys() - then.keys()), *rewritten})]

    def unchanged(self, earlier: Mapping[str, Any], *, moved: bool = False) -> set[str]:
        """Ids of shards whose rows in the output are still theirs; arguments as of `check_resumable`."""
        then = _planned(earlier)
        rewritten = self._rewritten(then, moved=moved)
        return {shard.id for shard in self.shards if shard.id in then and shard.id not in rewritten}

    def _rewritten(self, then: Mapping[str, Shard], *, moved: bool) -> dict[str, str]:
        """Shards of this plan whose files changed while name and size stayed: their ids, and how."""
        return {
            shard.id: why
            for shard in self.shards
            if (before := then.get(shard.id))
            and before.state
            and shard.state
            and (why := before.state.difference(shard.state, moved=moved))
        }


def _planned(earlier: Mapping[str, Any]) -> dict[str, Shard]:
    """The shards of a plan.json, by id."""
    return {shard.id: shard for shard in map(Shard.from_list, earlier.get("shards", []))}


def survey(config: RunConfig, earlier: Mapping[str, Any] | None = None) -> Survey:
    """Open the bundle, list the shards and look at some records.

    Args:
        config: of the run.
        earlier: content of plan.json, where the run is resumed: what it lists is not opened anew if nothing
            touched it.

    Raises:
        OutputError: the output lies in the input.
        BundleError: the bundle cannot be opened or lacks the variant.
        InputError: no shards, or none of the sampled records can be used.
        ConfigError: the model does not take a modality that was asked for, or a field to carry is nowhere.
    """
    bundle = Bundle.open(config.bundle)
    if config.variant != "auto":
        bundle.check_variant(config.variant)
    takes = bundle.spec.modalities
    if unknown := [m for m in config.modalities or () if m not in takes]:
        raise ConfigError(f"modalities: this bundle's model takes {', '.join(takes)}, not {unknown[0]}")
    check_apart(config.input, config.output, WRITTEN)
    listing = take_listing(config.input, _planned(earlier or {}).values())
    shards = listing.shards
    census = take_census(shards, read_options(config))
    used = config.modalities or takes
    if not any(census.modalities[m] for m in used):
        seen = ", ".join(f"{n} {s}" for s, n in census.sets.items())
        raise InputError(
            f"{config.input[0]}: none of {census.records} sampled records has {' or '.join(used)} "
            f"(seen: {seen}); check `extensions` in the config{census.fault and f'; {census.fault}'}"
        )
    _check_carried(config, census)
    unread = next(iter(census.unread.most_common()), None)
    if config.on_unread == "fail" and unread:
        kind, count = unread
        raise InputError(f"{count.example}: {kind} is not read; {remedy_of(kind)}; or set on_unread=warn")
    absolute = {"bundle": str(Location.parse(config.bundle)), "output": str(Location.parse(config.output))}
    return Survey(
        config.model_copy(update=absolute),
        bundle,
        tuple(shards),
        census,
        tuple(listing.notes),
        listing.unread,
    )


def _check_carried(config: RunConfig, census: Census) -> None:
    """Raise a ConfigError where a field to carry is in no sampled record."""
    if missing := [name for name in config.carry if name not in census.fields]:
        near = get_close_matches(missing[0], sorted(census.fields), n=1)
        known = ", ".join(sorted(census.fields)[:_FIELDS_SHOWN]) or "none"
        hint = f"did you mean {near[0]!r}?" if near else f"known: {known}"
        raise ConfigError(f"carry: {missing[0]!r} is in none of {census.records} sampled records ({hint})")


def take_census(shards: Sequence[Shard], options: ReadOptions) -> Census:
    """Read the first block of a few shards, spread over the list.

    Raises:
        InputError: none of them can be read.
    """
    sets: Counter[str] = Counter()
    kinds: set[str] = set()
    size, unreadable, faults = 0, "", []
    unread, names = Tally(), set[str]()
    for shard in shards[:: max(1, len(shards) // _SAMPLED_SHARDS)][:_SAMPLED_SHARDS]:
        try:
            block = next(read(shard, options))
            kinds.add(
                f"LMDB ({layout_of(shard, options)})" if shard.format == "lmdb" else _KINDS[shard.format]
            )
        except OSError as e:  # the run will name it and go on with the others; here one readable is enough
            unreadable = f"{shard.url}: cannot be read: {e}"
            continue
        valid = {m: pc.is_valid(block[m]).to_pylist() for m in MODALITIES}
        errors = block["error"].to_pylist()
        for i, failed in enumerate(errors):
            if failed is None or failed["type"] != EMPTY:
                seen = "+".join(m for m in MODALITIES if valid[m][i]) or "nothing"
                sets["unreadable" if failed else seen] += 1
        faults += [e["reason"] for e in errors if e and e["type"] != EMPTY]
        for key, things in zip(block["key"].to_pylist(), block["unread"].to_pylist(), strict=True):
            for thing in things or ():
                unread.add(thing["kind"], f"{shard.name}: {thing['name'] or key}")
        names.update(name for row in block["fields"].to_pylist() for name, _ in row or ())
        if options.carry:
            names.update(name for meta in block["meta"].to_pylist() for name in meta_fields(meta))
        size += sum(pc.sum(column).as_py() or 0 for column in _sizes(shard, block))
    records = sum(sets.values())
    if not records and unreadable:
        raise InputError(f"{unreadable}; check permissions")
    return Census(
        records,
        max(1.0, size / max(1, records)),
        dict(sets.most_common()),
        tuple(sorted(kinds)),
        next(iter(faults), ""),
        unread,
        frozenset(names),
    )


def _sizes(shard: Shard, block: pa.Table) -> list[pa.ChunkedArray]:
    """Columns whose sum is about the bytes that the records of a block take in their shard."""
    if shard.format in ("webdataset", "tfrecord"):
        return [block["length"]]
    return [pc.binary_length(block[column]) for column in EXTENSIONS]


def output_columns(config: RunConfig, bundle: Bundle) -> OutputColumns:
    """Which optional columns the config asks for; a model without labels gives its features in any case."""
    variant = bundle.manifest.variants.get(config.variant)  # none where it is "auto" still
    return OutputColumns(
        classes=len(bundle.labels) if config.scores else 0,
        labelled=bool(bundle.labels),
        features=bundle.manifest.features if config.features or not bundle.labels else 0,
        carry=config.carry,
        staged=variant is not None and variant.cascade is not None,
        alignment=config.align is not None,
    )


def read_options(config: RunConfig) -> ReadOptions:
    """How the config wants shards to be read."""
    return ReadOptions(
        extensions=config.extensions.model_dump(),
        member_bytes=config.limits.member_bytes,
        block_rows=config.block_rows,
        block_bytes=config.block_bytes,
        interleaved=config.interleaved,
        regroup_rows=config.regroup_rows,
        key_split=config.key_split,
        captions=config.captions,
        carry=config.carry,
        database=config.lmdb.database,
    )


def _short(value: object) -> str:
    """A value as it fits in one line; digests by their first characters."""
    text = str(value)
    if len(text) == 64 and text.isalnum():
        return text[:12]
    return text if len(text) <= 60 else text[:57] + "..."
