"""Three splits, always: train for weights and ranges, tune for every choice, test for the verdict only.

`split` in a record's JSON member decides. If no record states one, groups are assigned by the hash of their
name: the same records are in the same split on every machine, and records of one group are never in two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Split = Literal["train", "tune", "test"]

SPLITS: tuple[Split, ...] = ("train", "tune", "test")
#: Other names for them.
_NAMES: dict[str, Split] = {
    **{"train": "train", "training": "train", "tune": "tune", "test": "test", "testing": "test"},
    **dict.fromkeys(("val", "valid", "validation", "dev"), "tune"),
}
_TEST, _TUNE = 0.2, 0.2  # shares of the groups where nothing is stated
_TUNE_OF_TRAIN = 0.25  # where train and test are stated, and no tune
_LEFT_OUT = ""  # for records that state another name

AS_STATED = "as the records state"
BY_HASH = "by the hash of the group: 60 % train, 20 % tune, 20 % test"
TUNE_OF_TRAIN = "as the records state; a quarter of the groups of train, by their hash, is tune"


@dataclass(frozen=True)
class Assigned:
    """The split of each of N records, and by which rule."""

    of: npt.NDArray[np.str_]  # [N], one of SPLITS; empty where the record states another name
    rule: str

    def counts(self, groups: npt.NDArray[np.str_]) -> dict[str, Any]:
        """For the scorecard: the rule, records and groups of each split, and groups that are in two."""
        card: dict[str, Any] = {"rule": self.rule}
        for split in SPLITS:
            rows = self.of == split
            card[split] = {"records": int(rows.sum()), "groups": len(np.unique(groups[rows]))}
        trained, tested = (np.unique(groups[self.of == split]) for split in ("train", "test"))
        card["groups_in_train_and_test"] = len(np.intersect1d(trained, tested))
        return card


def group_of(meta: dict[str, Any], shard: str, row: int) -> str:
    """Records of one group are not independent; one that states no `caption_group` is a group by itself."""
    return str(meta.get("caption_group", f"{shard}#{row}"))


def assign(stated: Sequence[object], groups: Sequence[str]) -> Assigned:
    """Which split each record belongs to.

    Args:
        stated: [N] `split` of each JSON member; None where there is none.
        groups: [N].

    Returns:
        A record that states no split goes with the records of its group that do, or else by the group's hash.
        If train and test are stated but not tune, a quarter of the groups of train become tune.
    """
    found = [_LEFT_OUT if name is None else _NAMES.get(str(name).lower(), _LEFT_OUT) for name in stated]
    silent = [name is None for name in stated]
    if all(silent):
        return Assigned(np.array([_drawn(group) for group in groups], np.str_), BY_HASH)
    of_group = {group: split for group, split in zip(groups, found, strict=True) if split}
    sides = [
        of_group.get(group) or _drawn(group) if is_silent else split
        for group, split, is_silent in zip(groups, found, silent, strict=True)
    ]
    if "tune" in sides or "train" not in sides:
        return Assigned(np.array(sides, np.str_), AS_STATED)
    carved = [
        "tune" if side == "train" and _hash(group) < _TUNE_OF_TRAIN else side
        for side, group in zip(sides, groups, strict=True)
    ]
    return Assigned(np.array(carved, np.str_), TUNE_OF_TRAIN)


def _drawn(group: str) -> Split:
    place = _hash(group)
    return "test" if place < _TEST else "tune" if place < _TEST + _TUNE else "train"


def _hash(group: str) -> float:
    """A number in [0, 1) that depends only on the name."""
    digest = hashlib.sha256(group.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
