"""Records as request bodies: multipart, like those of a browser or curl, made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmray.errors import InputError
from mmray.schema import MODALITIES, Modality
from mmray.sources import ReadOptions, list_shards, read

_BOUNDARY = "mmray-load"
CONTENT_TYPE = f"multipart/form-data; boundary={_BOUNDARY}"
_NAMES: dict[Modality, str] = {
    "image": 'name="image"; filename="a"',
    "text": 'name="text"',
    "audio": 'name="audio"; filename="a"',
}


def bodies(inputs: Sequence[str], records: int) -> list[bytes]:
    """Bodies of the first records that can be read.

    Args:
        inputs: shards, as `mmray run` takes them.
        records: at most.

    Raises:
        InputError: none can be read there.
    """
    made: list[bytes] = []
    for shard in list_shards(list(inputs)):
        for block in read(shard, ReadOptions()):
            for row in block.to_pylist():
                if members := {m: row[m] for m in MODALITIES if row[m] is not None}:  # none: a damaged record
                    made.append(multipart(members))
                if len(made) == records:
                    return made
    if not made:
        raise InputError(f"{' '.join(inputs)}: no readable record; check it with `mmray plan`")
    return made


def multipart(members: Mapping[Modality, bytes]) -> bytes:
    """The body of one record, from its bytes by modality."""
    parts = [
        f"--{_BOUNDARY}\r\nContent-Disposition: form-data; {_NAMES[m]}\r\n\r\n".encode() + data + b"\r\n"
        for m, data in members.items()
    ]
    return b"".join(parts) + f"--{_BOUNDARY}--\r\n".encode()
