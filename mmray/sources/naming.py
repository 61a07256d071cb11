"""Which field of a row has which modality: by configured names, then known ones, then similar ones.

Columns of Parquet and features of TFRecords are found by known names only. In a CSV, a JSONL or the table of
a folder similar names are also used, because the values are paths and URLs, whose extensions show their kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlsplit

from mmray.sources.columns import KEYS, NAMES
from mmray.sources.folder_files import FILMS, PICTURES, SOUNDS
from mmray.sources.options import EXTENSIONS, ReadOptions

#: Common names; the first one that a row has is used. Files come before URLs.
NEAR: Mapping[str, tuple[str, ...]] = {
    "image": (
        *("image_path", "img_path", "image_file", "image_file_name", "image_filename", "img_file", "img"),
        *("picture", "photo", "images", "image_url", "img_url", "image_uri"),
    ),
    "audio": (
        *("audio_path", "audio_filepath", "audio_file", "audio_file_name", "audio_filename", "wav_path"),
        *("sound", "audios", "audio_url", "audio_uri"),
    ),
    "text": ("title", "captions", "sentence", "transcription", "transcript", "description", "alt_text"),
}
#: Names of a file of any kind, used if no field is a picture or sound by its name.
ANY_FILE = ("file_name", "filename", "file", "file_path", "filepath", "path", "url", "uri")

_MANY = 256  # sets of names that are cached: rows of a JSONL may differ

#: Columns of RECORDS, "key", or "file" for a picture or sound by its extension or bytes.
Roles = Mapping[str, str]


class Naming:
    """Finds the role of each field of a row by its name."""

    def __init__(self, options: ReadOptions) -> None:
        self._options = options
        self._column_of = options.column_of
        self._known: dict[tuple[str, ...], Roles] = {}

    def roles(self, names: Iterable[str]) -> Roles:
        """The role of each field that has one, by its name as it is written."""
        key = tuple(names)
        if key not in self._known:
            if len(self._known) >= _MANY:
                self._known.clear()
            self._known[key] = self._find(key)
        return self._known[key]

    def _find(self, names: Sequence[str]) -> Roles:
        written: dict[str, str] = {}
        for name in names:
            written.setdefault(name.strip().lower(), name)
        roles: dict[str, str] = {}
        for column in EXTENSIONS:
            configured = self._options.columns.get(column)
            ranks = [configured] if configured else self._ranks(column)
            there = (next((written[n] for n in rank if n in written), None) for rank in ranks)
            if found := next((name for name in there if name and name not in roles), None):
                roles[found] = column
        if "image" not in roles.values() and "audio" not in roles.values():
            file = next((written[n] for n in ANY_FILE if n in written and written[n] not in roles), None)
            roles |= {file: "file"} if file else {}
        keys = self._options.columns.get("key") or KEYS
        key = next((written[n] for n in keys if n in written and written[n] not in roles), None)
        return {**roles, **({key: "key"} if key else {})}

    def _ranks(self, column: str) -> list[tuple[str, ...]]:
        built_in = tuple(name for name in NAMES[column] if name not in self._column_of)
        return [self._options.extensions.get(column, ()), built_in, NEAR.get(column, ())]

    def kind_of(self, path: str) -> str | None:
        """Column of RECORDS by the extension of a path or URL; "unread" for other media; None: not known."""
        extension = extension_of(path)
        column = self._column_of.get(extension)
        if column in ("image", "audio"):
            return column
        return "unread" if extension in PICTURES | SOUNDS | FILMS else None


def extension_of(path: str) -> str:
    """Lower-case extension of a path or URL, without its dot; options of a URL are ignored."""
    name = path
    if is_url(path):
        try:
            name = urlsplit(path).path
        except ValueError:
            return ""
    base = name.replace("\\", "/").rpartition("/")[2]
    return base.rpartition(".")[2].lower() if "." in base else ""


def is_url(text: str) -> bool:
    """Whether a value is to be fetched."""
    return text[:8].lower().startswith(("http://", "https://"))
