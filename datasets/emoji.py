"""Build image-text-audio shards from emoji that four artists drew: pictures and words from npm, spoken words.

Result: `data/emoji/{train,tune,test}-NNNNNN.tar` and `dataset.json`, 1,443 emoji of 68 classes by four
artists, 5,772 records; beside it `data/emoji-unknown/unknown-NNNNNN.tar`, emoji of the test artist that are
of no class. The packages (345 MB) are fetched once into `data/downloads`. Takes a minute or two on two cores.

    python datasets/emoji.py                   # test on twitter, tune on facebook, train on google and apple
    python datasets/emoji.py --fold apple --output data/emoji-apple
    python datasets/emoji.py --languages en,de,zh --output data/emoji-words

A record is one emoji by one artist: the picture of 64 pixels as it is; as text *one* of its keywords, drawn
at random, which narrows the choice and does not give it away; another draw of them, spoken by eSpeak NG. A
tenth of the records lack the text, a tenth the sound, a fiftieth the picture. The class is Unicode's
subcategory. Left out are flags, components, subcategories of fewer than 8 emoji, and emoji that not all four
artists drew.

The artist decides the split, so an emoji (`caption_group`) is in all three: what is asked is whether a model
knows things that somebody else has drawn.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import _emojidata
import _shards
import _speech
import typer
from _emojidata import ARTISTS, PUBLISHED, Emoji, Packages, classes_of, parts_of
from _shards import Options, Source
from _speech import Utterance

from mmray.errors import ConfigError, MmrayError
from mmray.schema import MODALITIES, Modality

LICENCE = (
    "words: MIT (emojibase), Unicode; pictures: their artists' (google Apache-2.0, twitter CC-BY-4.0, "
    "apple and facebook not licensed): do not redistribute"
)
MISSING: dict[Modality, float] = {"image": 0.02, "text": 0.1, "audio": 0.1}


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


def collect(
    emoji: Sequence[Emoji], trees: dict[str, Path], test: str, options: Options
) -> tuple[list[EmojiRecord], list[EmojiRecord], dict[str, int]]:
    """Records with a class, records without one, and how many emoji were left out for which reason."""
    classes = classes_of(emoji)
    known: list[EmojiRecord] = []
    unknown: list[EmojiRecord] = []
    left_out: Counter[str] = Counter()
    for one in emoji:
        if one.subcategory not in classes or one.category in _emojidata.NO_CLASS:
            left_out["without a class, see the set `unknown`"] += 1
            if test in one.artists:
                unknown.append(draw(one, test, "unknown", trees[test], options))
        elif len(one.artists) < len(ARTISTS):
            left_out["not drawn by all artists"] += 1
        else:
            for artist, part in parts_of(test).items():
                known.append(draw(one, artist, part, trees[artist], options))
    return known, unknown, dict(left_out)


def draw(emoji: Emoji, artist: str, part: str, tree: Path, options: Options) -> EmojiRecord:
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


def with_sound(records: Sequence[EmojiRecord]) -> list[EmojiRecord]:
    """The records, spoken. An artist's words are a list of their own, so that a fold changes no byte."""
    lists: dict[tuple[str, bool], list[EmojiRecord]] = {}
    for record in sorted(records, key=lambda record: record.key):
        if record.spoken:
            lists.setdefault((record.artist, record.part == "unknown"), []).append(record)
    typer.echo(f"speaking {sum(map(len, lists.values()))} words")
    sounds = _speech.speak([[r.spoken for r in own if r.spoken] for own in lists.values()])
    heard = {
        record.key: sound
        for own, found in zip(lists.values(), sounds, strict=True)
        for record, sound in zip(own, found, strict=True)
    }
    return [replace(record, sound=heard.get(record.key, b"")) for record in records]


def build(
    output: Path, options: Options, downloads: Path, test: str = "twitter", packages: Packages = PUBLISHED
) -> None:
    """Make the set at `output`, and beside it the one of what has no class.

    Raises:
        UsageError: a package cannot be had, the options cannot be met, or `output` is somebody else's.
    """
    _check(options, test)
    version = f"{packages.pictures[test].version} and {packages.words.version}"
    name = f"npm emoji-datasource and emojibase-data {version}, {test} to test"
    unknown_output = output.with_name(f"{output.name}-unknown")
    there = [_shards.already_there(path, name, options) for path in (output, unknown_output)]
    if all(there):
        return
    trees, words = _emojidata.fetch(packages, downloads)
    emoji = _emojidata.read(trees[test], words, options.languages)
    known, unknown, left_out = collect(emoji, trees, test, options)
    for reason, count in left_out.items():
        typer.echo(f"left out: {count} emoji ({reason})")
    source = Source(name, version, LICENCE, left_out)
    records = with_sound([*known, *unknown])
    for path, is_unknown in ((output, False), (unknown_output, True)):
        own = [record for record in records if (record.part == "unknown") == is_unknown]
        _shards.write(path, own, source, options, {record.key: record.part for record in own})


def _check(options: Options, test: str) -> None:
    if test not in ARTISTS:
        raise ConfigError(f"--fold {test}: no such artist; there are {', '.join(ARTISTS)}")
    unknown = [language for language in options.languages if language not in _speech.VOICES]
    if unknown:
        raise ConfigError(f"--languages: no voice for {unknown[0]!r}; there are {', '.join(_speech.VOICES)}")


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
