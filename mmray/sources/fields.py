"""The fields of one row of a manifest: files that it names, its caption, its key; the rest is metadata."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mmray import magic
from mmray.errors import RecordError
from mmray.schema import META_BYTES
from mmray.sources.naming import Naming, extension_of, is_url
from mmray.sources.unlisted import HEAD_BYTES, modality_of
from mmray.unread import Unread

KEY_CHARS = 1 << 10  # longer keys are truncated, to bound the size of blocks
_SHOWN = 80


@dataclass(frozen=True)
class Fields:
    """Contents of a row, before any file is read."""

    key: str | None  # None: the row has none
    files: list[tuple[str, str, str]] = field(default_factory=list)  # role, name of the field, path or URL
    text: bytes | None = None
    text_name: str = ""  # of its field
    meta: dict[str, Any] = field(default_factory=dict)  # fields that no other column takes

    def meta_bytes(self, more: Mapping[str, Any] | None = None) -> bytes:
        """The metadata as a JSON member.

        Raises:
            RecordError: it has more bytes than are parsed.
        """
        data = json.dumps({**(more or {}), **self.meta}, ensure_ascii=False).encode(errors="surrogatepass")
        if len(data) > META_BYTES:
            raise RecordError(f"{len(data)} bytes of metadata, more than {META_BYTES}", "member-too-large")
        return data


def fields_of(values: Mapping[str, Any], naming: Naming) -> Fields:
    """Sort the values of a row by their roles.

    Raises:
        RecordError: a field with the name of a picture, sound or caption has another value.
    """
    roles = naming.roles(values)
    files: list[tuple[str, str, str]] = []
    key, text, text_name, meta, whole = None, None, "", {}, {}
    for name, value in values.items():
        role = roles.get(name)
        if role in ("image", "audio", "file"):
            path = _path(name, value)
            if path is None:
                continue
            files.append((role, name, path))
            if role == "file" and naming.kind_of(path) is None and not is_url(path):
                files.pop()  # a file of another kind, or not a path
                meta[name] = value
        elif role == "text":
            text, text_name = _text(name, value), name
        elif role == "meta":
            whole = _object(name, value)
        else:
            meta[name] = value
            if role == "key" and value not in (None, ""):
                key = str(value)[:KEY_CHARS]
    if key is None and files and not files[0][2].startswith("data:"):
        key = files[0][2][:KEY_CHARS]
    return Fields(key, files, text, text_name, {**meta, **whole})


def load(
    fields: Fields, read: Callable[[str], bytes], naming: Naming
) -> tuple[dict[str, bytes], list[Unread]]:
    """The payload of a row's files, by column of RECORDS, and the files that are not read.

    Args:
        fields: of the row.
        read: gives the bytes of a path or URL.
        naming: knows extensions.

    Raises:
        RecordError: one of them cannot be read, or is neither a picture nor a sound.
    """
    found: dict[str, bytes] = {}
    unread: list[Unread] = []
    for role, name, path in fields.files:
        kind = naming.kind_of(path) if role == "file" else role
        if kind == "unread":
            extension = extension_of(path)
            unread.append(Unread(f".{extension} files", path[:_SHOWN], modality_of(extension) or "image"))
            continue
        data = _inline(path) if path.startswith("data:") else read(path)
        column = kind or magic.modality_of(data[:HEAD_BYTES])
        if column is None:
            raise RecordError(f"{name!r}: {path[:_SHOWN]}: neither a picture nor a sound", "media-unknown")
        if column in found:
            raise RecordError(f"more than one {column}: {name!r} is the second", "repeated-member")
        found[column] = data
    return found, unread


def _path(name: str, value: object) -> str | None:
    """The path or URL in a value; None if it is empty."""
    if isinstance(value, list):
        if len(value) > 1:
            reason = f"{name!r} lists {len(value)} files, but a record has one; give each file its own row"
            raise RecordError(reason, "repeated-member")
        value = value[0] if value else None
    if isinstance(value, dict):  # as Hugging Face stores a picture or a sound
        value = value.get("path")
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        raise RecordError(f"{name!r} is a {type(value).__name__}, not a path or URL", "field-type")
    return value.strip()


def _text(name: str, value: object) -> bytes | None:
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        value = value[0]
    if value is None or value == "" or value == []:
        return None
    if isinstance(value, dict | list):
        raise RecordError(f"{name!r} is a {type(value).__name__}, not a caption", "field-type")
    return str(value).encode(errors="surrogatepass")


def _object(name: str, value: object) -> dict[str, Any]:
    """The metadata in a separate field; under the field's name if it is not an object."""
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            parsed = None
        value = parsed if isinstance(parsed, dict) else value
    return value if isinstance(value, dict) else {name: value}


def _inline(url: str) -> bytes:
    """The bytes of a "data:" URL (RFC 2397), if they are base64."""
    head, _, data = url.partition(",")
    if not head.endswith(";base64"):
        raise RecordError("a data: URL that is not base64", "path-invalid")
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as e:
        raise RecordError(f"a data: URL that is not base64: {e}", "path-invalid") from e
