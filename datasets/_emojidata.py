"""What emoji there are, who drew them, what words they have: npm's `emoji-datasource-*` and `emojibase-data`.

Owns the packages and their layout, what is a class, and which artist is in which split.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _npm
import _speech
from _npm import Package

#: In a ring: the artist before the one that is tested is tuned on, the other two are trained on.
ARTISTS = ("google", "apple", "facebook", "twitter")
LEAST_EMOJI = 8  # of a class
NO_CLASS = ("Flags", "Component")
PICTURES = re.compile(r"emoji\.json|img/\w+/64/(?!.+-1f3f[b-f]).+\.png")  # without skin tones
WORDS = re.compile(rf"({'|'.join(_speech.VOICES)})/data\.json")


@dataclass(frozen=True)
class Packages:
    """Where everything comes from: pictures by artist, and names and keywords of many languages."""

    pictures: dict[str, Package]
    words: Package


_SHA512 = {
    "google": "ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
    "apple": "dVYjsK0FnCry9F+PBtnivhG2K0xdwlmqYaSgiUtztUdAGPYiHYhZcVKvNBqC791g2qyEcFNTBO6utg4eQ3uLTw==",
    "facebook": "b9ZxJdB7nMWGckH1vyCjPSosaa6MJYuojPPFiQ0LmDIZS8vlG454XKcmTFKrXIMAA72O4MRJMYFhvWI8pjyciQ==",
    "twitter": "7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ==",
    "words": "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
}
PUBLISHED = Packages(
    {artist: Package(f"emoji-datasource-{artist}", "16.0.0", _SHA512[artist]) for artist in ARTISTS},
    Package("emojibase-data", "17.0.0", _SHA512["words"]),
)


@dataclass(frozen=True)
class Emoji:
    """One emoji, as `emoji.json` tells it, with its words by language."""

    code: str  # "1f600": code points in hex, joined by "-", without variation selectors
    image: str  # file name of its picture
    category: str
    subcategory: str
    artists: tuple[str, ...]  # who drew it
    words: dict[str, tuple[str, ...]]


def fetch(packages: Packages, downloads: Path) -> tuple[dict[str, Path], Path]:
    """The unpacked packages, of pictures by artist, and of words.

    Raises:
        InputError: one cannot be had.
    """
    trees = {artist: _npm.fetch(one, downloads, PICTURES) for artist, one in packages.pictures.items()}
    return trees, _npm.fetch(packages.words, downloads, WORDS)


def parts_of(test: str) -> dict[str, str]:
    """Split of each artist, where `test` is the one that is tested on."""
    ring = ARTISTS.index(test)
    return {
        artist: "test" if place == ring else "tune" if place == (ring - 1) % len(ARTISTS) else "train"
        for place, artist in enumerate(ARTISTS)
    }


def keywords(entry: dict[str, Any]) -> tuple[str, ...]:
    """Tags of an entry of emojibase, without the emoji's own name where there is another word.

    A tag without a letter or digit, such as "!?", is no word: it cannot be spoken.
    """
    name = str(entry["label"])
    tags = [tag for tag in map(str, entry.get("tags", ())) if any(map(str.isalnum, tag))]
    return tuple(tag for tag in tags if tag.casefold() != name.casefold()) or (name,)


def read(datasource: Path, emojibase: Path, languages: Sequence[str]) -> list[Emoji]:
    """All emoji (skin tones are no emoji of their own) that have words in every language."""
    words: dict[str, dict[str, tuple[str, ...]]] = {}
    for language in languages:
        for entry in json.loads((emojibase / language / "data.json").read_text("utf-8")):
            words.setdefault(_code(entry["hexcode"]), {})[language] = keywords(entry)
    return [
        Emoji(
            _code(entry["unified"]),
            entry["image"],
            entry["category"],
            entry["subcategory"],
            tuple(artist for artist in ARTISTS if entry[f"has_img_{artist}"]),
            words[_code(entry["unified"])],
        )
        for entry in json.loads((datasource / "emoji.json").read_text("utf-8"))
        if len(words.get(_code(entry["unified"]), ())) == len(languages)
    ]


def classes_of(emoji: Sequence[Emoji]) -> frozenset[str]:
    """Subcategories that are large enough to be learned."""
    counts = Counter(e.subcategory for e in emoji if e.category not in NO_CLASS)
    return frozenset(name for name, count in counts.items() if count >= LEAST_EMOJI)


def _code(hexcode: str) -> str:
    """One spelling for both packages, which do not have the same variation selectors (fe0f)."""
    return "-".join(point for point in hexcode.lower().split("-") if point != "fe0f")
