"""Surveys bundle, shards and some records before a run. Starts no cluster."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from mmray.bundle import Bundle
from mmray.canary import check_canary
from mmray.confidence import least_score
from mmray.config import RunConfig
from mmray.errors import ConfigError, InputError, OutputError
from mmray.page.table import number
from mmray.pipeline.census import Census, spread, take_census
from mmray.pipeline.rundir import WRITTEN
from mmray.preprocess.foreign_text import foreign_test
from mmray.schema import OutputColumns
from mmray.sources import ReadOptions, Shard, take_listing
from mmray.sources.apart import check_apart
from mmray.sources.hints import hints
from mmray.storage import Location
from mmray.unread import Tally, is_foreign_text, remedy_of

_FIELDS_SHOWN = 20

#: Settings that a resume must share with the run that it continues.
_SHAPES_OUTPUT = (
    *("variant", "modalities", "align", "scores", "features", "carry", "abstain"),
    *("on_damaged", "on_unread", "foreign_text", "limits", "extensions", "columns", "files", "key_split"),
    *("captions", "lmdb", "interleaved", "regroup_rows"),
    *("verify_all", "on_shift"),
)


@dataclass(frozen=True)
class Survey:
    """A checked config with its bundle and shards."""

    config: RunConfig  # bundle and output made absolute: workers have other working directories
    bundle: Bundle
    shards: tuple[Shard, ...]
    census: Census
    notes: tuple[str, ...] = ()  # notes about the shards, a line each
    unread_files: Tally = field(default_factory=Tally)  # files among the shards that are not shards, by kind

    @property
    def input_bytes(self) -> int:
        return sum(shard.size for shard in self.shards)

    @property
    def expected_rows(self) -> int:
        """Estimated from the sampled bytes for each record."""
        return round(self.input_bytes / self.census.record_bytes)

    def identity(self) -> dict[str, Any]:
        """What a resume must have in common with its run: everything that affects the output."""
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
        """Refuse to resume a run, given its plan.json, with anything that would change its output.

        Args:
            earlier: content of plan.json; None if there is no run yet.
            accept_changes: shards may be new or changed: those are run again.
            moved: files may have been copied without keeping times or versions.
            cures: settings that may differ.
            mended: ids of shards that may have changed.

        Returns:
            Shards that are new or changed.

        Raises:
            OutputError: names what differs.
        """
        if earlier is None:
            return []
        place = self.config.output
        identity: dict[str, Any] = earlier.get("identity", {})
        unset = RunConfig(input=("",), bundle="", output="").model_dump(mode="json")  # in an earlier version
        for key, value in self.identity().items():
            before = identity.get(key, unset.get(key))
            if before != value and key not in cures:
                remedy = "choose another --output, or the same settings to resume"
                if cures:
                    remedy = f"a retry may change only {', '.join(cures)}"
                raise OutputError(
                    f"{place}: was made with {key}={_short(before)}, but now it is {_short(value)}; {remedy}"
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
                f"{place}: {number(len(removed), 'shard')} of this run missing from the input "
                f"({', '.join(removed[:3])}); bring them back, or choose another --output"
            )
        may_change = {then[id].name for id in mended if id in then}
        unexpected = {*came, *(now[id].name for id in rewritten)} - may_change
        if unexpected and not accept_changes:
            counts = f"{number(len(came) - len(changed), 'new shard')}, {len(changed)} of another size"
            names = [*came[:3], *(f"{now[id].name}: {why}" for id, why in sorted(rewritten.items())[:3])]
            counts += f", {len(rewritten)} with other content" if rewritten else ""
            copied = rewritten and not moved and not self._rewritten(then, moved=True)
            remedy = "; if they were only copied or touched, resume with --moved" if copied else ""
            raise OutputError(
                f"{place}: the input changed: {counts} ({', '.join(names)}); run them with --accept-changes, "
                f"or choose another --output{remedy}"
            )
        return [now[id] for id in sorted({*(now.keys() - then.keys()), *rewritten})]

    def unchanged(self, earlier: Mapping[str, Any], *, moved: bool = False) -> set[str]:
        """Ids of shards whose rows in the output are still valid; arguments as in `check_resumable`."""
        then = _planned(earlier)
        rewritten = self._rewritten(then, moved=moved)
        return {shard.id for shard in self.shards if shard.id in then and shard.id not in rewritten}

    def _rewritten(self, then: Mapping[str, Shard], *, moved: bool) -> dict[str, str]:
        """Shards of this plan whose files changed but not their names and sizes: ids, and how."""
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
        earlier: content of plan.json if the run is resumed: untouched shards in it are not opened again.

    Raises:
        OutputError: the output is inside the input.
        BundleError: the bundle cannot be opened or lacks the variant.
        InputError: no shards, or none of the sampled records can be used.
        ConfigError: the model does not take a requested modality, a field to carry does not exist, the bundle
            does not support the requested risk, the canary has other labels, or the package for masking
            foreign texts is missing.
    """
    bundle = Bundle.open(config.bundle)
    if config.variant != "auto":
        bundle.check_variant(config.variant)
    least_score(bundle, config.variant, config.abstain)
    if config.canary:
        check_canary(bundle, config.canary)
    takes = bundle.spec.modalities
    if unknown := [m for m in config.modalities or () if m not in takes]:
        raise ConfigError(f"modalities: this bundle's model takes {', '.join(takes)}, not {unknown[0]}")
    check_apart(config.input, config.output, WRITTEN)
    listing = take_listing(config.input, _planned(earlier or {}).values())
    shards = listing.shards
    used = config.modalities or takes
    text = bundle.spec.text if "text" in used else None
    foreign = foreign_test(text.languages, text.scripts, config.foreign_text) if text else None
    census = take_census(shards, read_options(config), foreign)
    missed = [m for m in used if not census.modalities[m]]
    found = hints(spread(shards), read_options(config), missed) if missed else []
    if not any(census.modalities[m] for m in used):
        unread = ", ".join(f"{kind} as {count.example}" for kind, count in census.unread.most_common()[:3])
        seen = ", ".join(f"{n} {s}" for s, n in census.sets.items())
        remedy = "; ".join(found) or f"check `extensions` in the config{census.fault and f'; {census.fault}'}"
        raise InputError(
            f"{config.input[0]}: none of {census.records} sampled records has {' or '.join(used)} "
            f"(seen: {seen}{unread and f'; not read: {unread}'}); {remedy}"
        )
    _check_carried(config, census)
    if config.on_unread == "fail":
        for kind, count in census.unread.most_common():
            if not is_foreign_text(kind) and (remedy := remedy_of(kind)):
                raise InputError(f"{count.example}: {kind} are not read; {remedy}; or set on_unread=warn")
    absolute: dict[str, Any] = {
        "bundle": str(Location.parse(config.bundle)),
        "output": str(Location.parse(config.output)),
    }
    if config.canary:
        place = str(Location.parse(config.canary.bundle))
        absolute["canary"] = config.canary.model_copy(update={"bundle": place})
    return Survey(
        config.model_copy(update=absolute),
        bundle,
        tuple(shards),
        census,
        (*listing.notes, *found),
        listing.unread,
    )


def _check_carried(config: RunConfig, census: Census) -> None:
    """Raise a ConfigError if a field to carry is in no sampled record."""
    if missing := [name for name in config.carry if name not in census.fields]:
        near = get_close_matches(missing[0], sorted(census.fields), n=1)
        known = ", ".join(sorted(census.fields)[:_FIELDS_SHOWN]) or "none"
        hint = f"did you mean {near[0]!r}?" if near else f"known: {known}"
        raise ConfigError(f"carry: {missing[0]!r} is in none of {census.records} sampled records ({hint})")


def output_columns(config: RunConfig, bundle: Bundle) -> OutputColumns:
    """The optional columns of the config; a model without labels always gives its features."""
    variant = bundle.manifest.variants.get(config.variant)  # none where it is "auto" still
    return OutputColumns(
        classes=len(bundle.labels) if config.scores else 0,
        labelled=bool(bundle.labels),
        features=bundle.manifest.features if config.features or not bundle.labels else 0,
        carry=config.carry,
        staged=variant is not None and variant.cascade is not None,
        least_score=least_score(bundle, config.variant, config.abstain),
        alignment=config.align is not None,
    )


def read_options(config: RunConfig) -> ReadOptions:
    """The config's options for reading shards."""
    return ReadOptions(
        extensions=config.extensions.model_dump(),
        columns={name: names for name, names in config.columns.model_dump().items() if names},
        files=config.files,
        fetch=config.fetch,
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
