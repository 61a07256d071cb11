"""How often a variant was judged on the same test records: repeated use overfits to them.

Kept in this machine's cache directory by bundle and test records, and in every scorecard.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from mmray.bundle import Bundle
from mmray.digests import sealed, unsealed
from mmray.errors import UsageError
from mmray.evaluation import Records
from mmray.storage import Location, cache_directory


class Uses:
    """Uses of the test records to judge variants of a bundle.

    Args:
        parent: whose variants.
        records: of which those of test count.
    """

    def __init__(self, parent: Bundle, records: Records) -> None:
        self._parent = parent
        self._of = records.identity("test")
        key = hashlib.sha256(f"{parent.digest} {self._of}".encode()).hexdigest()[:24]
        self._place = Location.parse(cache_directory() / "test-uses" / f"{key}.json")

    def check(self, variants: Iterable[str], again: str | None) -> None:
        """Refuse to judge a variant on test again without a reason.

        Args:
            variants: to judge.
            again: the reason.

        Raises:
            UsageError: one of them was.
        """
        before = {use["variant"]: use["when"] for use in self.all()}
        for variant in variants:
            if variant in before and not again:
                raise UsageError(
                    f"{self._parent.path}: {variant} was judged on these test records before, at "
                    f"{before[variant]}; a variant that is changed until it passes is fitted to them: "
                    'give other test records, or a reason: --again "reason"'
                )

    def note(self, variant: str, why: str | None) -> None:
        """Record that a variant was judged now."""
        use = {"variant": variant, "when": datetime.now(UTC).isoformat(timespec="seconds"), "why": why or ""}
        self._place.parent.make_directory()
        self._place.write_atomically(sealed({"uses": [*self.all(), use]}))

    def all(self) -> Sequence[dict[str, Any]]:
        """Each use: variant, when (UTC), and why it was not the first; the oldest first."""
        try:
            uses = unsealed(self._place.read_bytes()).get("uses")
        except OSError:
            uses = None
        known: list[dict[str, Any]] = uses if isinstance(uses, list) else []
        return known
