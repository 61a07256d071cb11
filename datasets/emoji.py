"""Build image-text-audio shards from emoji that four artists drew: pictures and words from npm, spoken words.

Result: `data/emoji/{train,tune,test}-NNNNNN.tar` and `dataset.json`, 1,443 emoji of 68 classes by four artists,
5,772 records; beside it `data/emoji-unknown/unknown-NNNNNN.tar`, emoji of the test artist that belong to none of
these classes. The packages (345 MB) are fetched once into `data/downloads`. Takes about two minutes.

    python datasets/emoji.py                            # test on twitter, tune on facebook, train on the others
    python datasets/emoji.py --fold apple --output data/emoji-apple
    python datasets/emoji.py --languages en,de,zh --output data/emoji-words

A record is one emoji by one artist: the picture of 64 pixels as it is; as text *one* of its keywords, drawn at
random, which narrows the choice and does not give it away; another draw of them, spoken by eSpeak NG. A tenth of
the records lack the text, a tenth the sound, a fiftieth the picture. The class is Unicode's subcategory. Left out
are flags, components, subcategories of fewer than 8 emoji, and emoji that not all four artists drew.

The artist decides the split, so an emoji (`caption_group`) is in all three: what is asked is whether a model
knows things that somebody else has drawn.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import _npm
import _shards
import _speech
import typer
from _npm import Package
from _shards import Options, Source
from _speech import Utterance

from mmray.errors import ConfigError, InputError, MmrayError
from mmray.schema import MODALITIES, Modality

#: In a ring: the artist before the one that is tested is tuned on, the other two are trained on.
ARTISTS = ("google", "apple", "facebook", "twitter")
LICENCE = (
    "words: MIT (emojibase), Unicode; pictures: their artists' (google Apache-2.0, twitter CC-BY-4.0, "
    "apple and facebook not licensed): do not redistribute"
)
LEAST_EMOJI = 8  # of a class
NO_CLASS = ("Flags", "Component")
PICTURES = re.compile(r"emoji\.json|img/\w+/64/(?!.+-1f3f[b-f]).+\.png")  # without skin tones
WORDS = re.compile(rf"({'|'.join(_speech.VOICES)})/data\.json")
MISSING: dict[Modality, float] = {"image": 0.02, "text": 0.1, "audio": 0.1}


@dataclass(frozen=True)
class Packages:
    """Where everything comes from: pictures by artist, and names and keywords of many languages."""

    pictures: dict[str, Package]
    words: Package


PUBLISHED = Packages(
    {
        artist: Package(f"emoji-datasource-{artist}", "16.0.0", sha512)
        for artist, sha512 in (
            ("google", "ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A=="),
            ("apple", "dVYjsK0FnCry9F+PBtnivhG2K0xdwlmqYaSgiUtztUdAGPYiHYhZcVKvNBqC791g2qyEcFNTBO6utg4eQ3uLTw=="),
            ("facebook", "b9ZxJdB7nMWGckH1vyCjPSosaa6MJYuojPPFiQ0LmDIZS8vlG454XKcmTFKrXIMAA72O4MRJMYFhvWI8pjyciQ=="),
            ("twitter", "7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ=="),
        )
    },
    Package(
        "emojibase-data",
        "17.0.0",
        "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
    ),
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


@dataclass(frozen=True)
class EmojiRecord:
    """One emoji by one artist (a draft for `_shards.write`)."""

    emoji: Emoji
    artist: str
    part: str  # train, tune, test or unknown
    language: str
    picture: Path | None
    text: str | None
    spoken: Utterance | None
    sound: bytes = b""  # what is heard, once it has been spoken

    @property
    def key(self) -> str:
        """`twitter-1f600`."""
        return f"{self.artist}-{self.emoji.code}"

    @property
    def label(self) -> str:
        """Unicode's subcategory: face-smiling, animal-bird, …"""
        return self.emoji.subcategory

    @property
    def group(self) -> str:
        """The emoji, whoever drew it."""
        return self.emoji.code

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What the record was not drawn to lack."""
        has = {"image": self.picture, "text": self.text, "audio": self.spoken}
        return tuple(m for m in MODALITIES if has[m] is not None)

    def members(self, kept: tuple[Modality, ...]) -> dict[str, bytes]:
        """The picture as the artist's package has it, the keyword, and the spoken one."""
        found: dict[str, bytes] = {}
        if "image" in kept and self.picture:
            found["png"] = self.picture.read_bytes()
        if "text" in kept and self.text:
            found["txt"] = self.text.encode()
        if "audio" in kept:
            found["ogg"] = self.sound
        return found

    def meta(self, kept: tuple[Modality, ...]) -> dict[str, object]:
        """Emoji, artist, language, and what is said (null without sound). What has no class is for tests."""
        return {
            "split": "test" if self.part == "unknown" else self.part,
            "emoji": "".join(chr(int(point, 16)) for point in self.emoji.code.split("-")),
            "artist": self.artist,
            "language": self.language,
            "spoken": self.spoken.word if self.spoken and "audio" in kept else None,
        }


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


def read_emoji(datasource: Path, emojibase: Path, languages: Sequence[str]) -> list[Emoji]:
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


def collect(
    emoji: Sequence[Emoji], trees: dict[str, Path], test: str, options: Options
) -> tuple[list[EmojiRecord], list[EmojiRecord], dict[str, int]]:
    """Records with a class, records without one, and how many emoji were left out for which reason."""
    classes = classes_of(emoji)
    known: list[EmojiRecord] = []
    unknown: list[EmojiRecord] = []
    left_out: Counter[str] = Counter()
    for one in emoji:
        if one.subcategory not in classes or one.category in NO_CLASS:
            left_out["without a class, see the set `unknown`"] += 1
            if test in one.artists:
                unknown.append(_draw(one, test, "unknown", trees[test], options))
        elif len(one.artists) < len(ARTISTS):
            left_out["not drawn by all artists"] += 1
        else:
            for artist, part in parts_of(test).items():
                known.append(_draw(one, artist, part, trees[artist], options))
    return known, unknown, dict(left_out)


def _draw(emoji: Emoji, artist: str, part: str, tree: Path, options: Options) -> EmojiRecord:
    """What a record shows and says: the same in every fold."""
    rng = random.Random(f"emoji:{options.seed}:{artist}:{emoji.code}")
    language = rng.choice(options.languages)
    words = emoji.words[language]
    text, spoken = rng.choice(words), _speech.draw(rng.choice(words), language, rng)
    lacks = {modality for modality, share in MISSING.items() if rng.random() < share}
    if len(lacks) == len(MISSING):
        lacks = set()
    return EmojiRecord(
        emoji,
        artist,
        part,
        language,
        None if "image" in lacks else tree / "img" / artist / "64" / emoji.image,
        None if "text" in lacks else text,
        None if "audio" in lacks else spoken,
    )


def with_sound(records: Sequence[EmojiRecord]) -> Iterator[EmojiRecord]:
    """The records, spoken; artist by artist in the order of their keys, so that a fold changes no byte."""
    ordered = sorted(records, key=lambda record: record.key)
    for artist in sorted({record.artist for record in ordered}):
        own = [record for record in ordered if record.artist == artist]
        sounds = iter(_speech.speak([record.spoken for record in own if record.spoken]))
        for record in own:
            yield replace(record, sound=next(sounds)) if record.spoken else record


def build(
    output: Path, options: Options, downloads: Path, test: str = "twitter", packages: Packages = PUBLISHED
) -> None:
    """Make the set at `output`, and beside it the one of what has no class.

    Raises:
        UsageError: a package cannot be had, the options cannot be met, or `output` is somebody else's.
    """
    _check(options, test)
    version = f"{packages.pictures[test].version}, {packages.words.version}"
    name = f"emoji-datasource and emojibase-data {version}, {test} to test"
    unknown_output = output.with_name(f"{output.name}-unknown")
    there = [_shards.already_there(path, name, options) for path in (output, unknown_output)]
    if all(there):
        return
    trees = {a: _npm.fetch(package, downloads, PICTURES) for a, package in packages.pictures.items()}
    words = _npm.fetch(packages.words, downloads, WORDS)
    emoji = read_emoji(trees[test], words, options.languages)
    known, unknown, left_out = collect(emoji, trees, test, options)
    for reason, count in left_out.items():
        typer.echo(f"left out: {count} emoji ({reason})")
    source = Source(name, version, LICENCE, left_out)
    for path, records in ((output, known), (unknown_output, unknown)):
        typer.echo(f"speaking {sum(record.spoken is not None for record in records)} words of {len(records)} records")
        spoken = list(with_sound(records))
        _shards.write(path, spoken, source, options, {record.key: record.part for record in spoken})


def _check(options: Options, test: str) -> None:
    if test not in ARTISTS:
        raise ConfigError(f"--fold {test}: no such artist; there are {', '.join(ARTISTS)}")
    unknown = [language for language in options.languages if language not in _speech.VOICES]
    if unknown:
        raise InputError(f"--languages: no voice for {unknown[0]!r}; there are {', '.join(_speech.VOICES)}")


def _code(hexcode: str) -> str:
    """One spelling for both packages: emojibase has variation selectors in some places, emoji.json in others."""
    return "-".join(point for point in hexcode.lower().split("-") if point != "fe0f")


def main(
    output: Annotated[Path, typer.Option(help="Folder of the shards.")] = Path("data/emoji"),
    fold: Annotated[str, typer.Option(help="Artist to test on.")] = "twitter",
    shard_rows: Annotated[int, typer.Option(help="Records in a shard.")] = 200,
    languages: Annotated[str, typer.Option(help="Of the words; each record draws one.")] = "en",
    seed: Annotated[int, typer.Option(help="Decides words, voices, order and what is missing.")] = 0,
    downloads: Annotated[Path, typer.Option(help="Where the packages are kept.")] = Path("data/downloads"),
) -> None:
    """Fetch emoji of four artists and write them as image-text-audio shards."""
    try:
        options = Options(None, shard_rows, _shards.parse_languages(languages), 0.0, seed)
        build(output, options, downloads, fold)
    except MmrayError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None


if __name__ == "__main__":
    typer.run(main)
