"""A shard: its name, place and format. Its id depends only on path and size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mmray.errors import OutputError
from mmray.sources.formats import Compression, Format, by_name
from mmray.sources.lmdb_check import data_file
from mmray.sources.state import State
from mmray.storage import Location


@dataclass(frozen=True)
class Shard:
    """One file of records, or one LMDB."""

    id: str  # path relative to the input root, '@', size in bytes; of an LMDB also 't', last transaction
    url: str  # what Location.parse opens
    size: int  # bytes
    format: Format = "webdataset"
    compression: Compression = ""  # if set, it is read as a stream: no seeking, no splitting
    state: State | None = None  # state when it was listed; None: not known, so nothing is compared
    indexed: bool = False  # whether it has an index
    fault: str = ""  # why it is not read: an unsupported format, or an LMDB that is damaged or changing

    @property
    def name(self) -> str:
        """Readable name: the relative path."""
        return self.id.rpartition("@")[0]

    @property
    def compressed(self) -> bool:
        return bool(self.compression)

    @property
    def file(self) -> Location:
        """The file with its bytes: for an LMDB directory, one in it."""
        place = Location.parse(self.url)
        return Location.parse(data_file(place.path)) if self.format == "lmdb" and place.is_local else place

    def to_list(self) -> list[Any]:
        """Compact form for plan.json: a run may have a million shards."""
        state = self.state.to_text() if self.state and not self.fault else None
        return [self.id, self.url, self.size, self.format, self.compression, state]

    @classmethod
    def from_list(cls, values: list[Any]) -> Shard:
        """Reverse of `to_list`, also of what earlier versions wrote: four values, without a state.

        Raises:
            OutputError: the list has another form.
        """
        try:
            id, url, size, format, *rest = values
            if not rest:
                hint = by_name(Location.parse(url).path)
                return cls(id, url, size, format, hint.compression if hint else "")
            compression, state = rest
            return cls(id, url, size, format, compression, State.from_text(size, state) if state else None)
        except (TypeError, ValueError, AttributeError) as e:
            reason = f"plan.json lists a shard as {values}, which this version of mmray cannot read"
            raise OutputError(f"{reason}; choose another --output") from e

    def open(self) -> Location:
        """Its place; on a store, opened for reading only in this version."""
        return replace(Location.parse(self.url), version=self.state.version if self.state else "")
