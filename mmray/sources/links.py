"""Links in a tar: the position of a link's target."""

from __future__ import annotations

from typing import NamedTuple

from mmray.sources.tar import ByteFile, Damage, Other, walk

_NAMES, _NAME_CHARS = 1_000_000, 128 << 20  # links that are stored for one tar
_STEPS = 8  # links in a chain


class Payload(NamedTuple):
    """Position of a member's bytes."""

    offset: int
    size: int


class Links:
    """The members of a tar by name. The tar is scanned when the first link occurs: most tars have none.

    Args:
        file: seekable.
        size: of it, in bytes.
    """

    def __init__(self, file: ByteFile, size: int) -> None:
        self._file = file
        self._size = size
        self._found: dict[str, Payload | str] | None = (
            None  # its position, or the name of another link's target
        )

    def find(self, target: str) -> Payload | None:
        """Position of a link's target; None if there is no such member."""
        if self._found is None:
            self._found = self._look()
        found: Payload | str | None = target
        for _ in range(_STEPS):
            if not isinstance(found, str):
                break
            found = self._found.get(_plain(found))
        return None if isinstance(found, str) else found

    def _look(self) -> dict[str, Payload | str]:
        found: dict[str, Payload | str] = {}
        chars = 0
        for part in walk(self._file, self._size, max_bytes=0, wanted=lambda _: 0):
            if isinstance(part, Damage):
                continue
            name = _plain(part.name)
            if isinstance(part, Other):
                if part.target and _plain(part.target) != name:
                    found[name] = part.target
            elif not part.is_sparse:
                found[name] = Payload(part.payload, part.size)
            chars += len(name)
            if len(found) >= _NAMES or chars >= _NAME_CHARS:
                break
        return found


def _plain(name: str) -> str:
    return name.removeprefix("./")
