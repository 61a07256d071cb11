"""Build image-text-audio shards from Tux Paint's stamps (Debian's `tuxpaint-stamps-default`, GPL-2).

Result: `data/tuxpaint/{train,tune,test}-NNNNNN.tar` and `dataset.json`; 785 records for English, 448, 173 and
164 of them. No caption group is in two splits. The package (161 MB) is fetched once, without root, into
`data/downloads`.

    python datasets/tuxpaint.py                          # all stamps, English captions
    python datasets/tuxpaint.py --languages en,fr        # each stamp once per language
    python datasets/tuxpaint.py --rows 200 --missing 0.3 --output data/tux-small

A record is one stamp in one language: the PNG as it is, the caption, and the one sound that says most about
it. That is, in this order: the spoken caption of the record's own language if that is not English; the sound
effect (a crow's caw); the spoken caption in English, in French (nearly every stamp has one), in another
language. Measured with frozen YAMNet and logistic regression, 5-fold by caption group: effects first .442
(.740 on the 131 stamps with an effect), spoken French only .421 (.649); majority class .322. Left out are
mirror images (drawn twins of another stamp, without a caption of their own), stamps without a caption in the
language, and pictures that cannot be read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import _debian
import _shards
import soundfile
import typer
from _shards import Options, Source
from PIL import Image

from mmray.errors import InputError, MmrayError
from mmray.schema import Modality

PACKAGE = "tuxpaint-stamps-default"
LICENCE = "GPL-2"
STAMPS = "usr/share/tuxpaint/stamps"
MIRRORED = re.compile(r"_(mirror|flip|mirror_?flip)$")
AUDIO_SUFFIXES = (".ogg", ".wav")


@dataclass(frozen=True)
class Sound:
    """One audio file of a stamp; `language` is None for an effect."""

    path: Path
    language: str | None

    @property
    def kind(self) -> Literal["effect", "spoken"]:
        """Whether one hears the thing itself or somebody naming it."""
        return "effect" if self.language is None else "spoken"


@dataclass(frozen=True)
class StampRecord:
    """One stamp in one language (a draft for `_shards.write`)."""

    stamp: Path  # of the PNG, relative to the stamps folder
    folder: Path  # the stamps folder
    language: str
    caption: str
    group: str
    sound: Sound | None

    @property
    def key(self) -> str:
        """`animals/birds/crow.png` in French → `animals-birds-crow-fr`; English has no ending."""
        name = re.sub(r"[^A-Za-z0-9_-]", "_", "-".join(self.stamp.with_suffix("").parts))
        return name if self.language == "en" else f"{name}-{self.language.replace('@', '_')}"

    @property
    def label(self) -> str:
        """The first folder: animals, food, …"""
        return self.stamp.parts[0]

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Picture and caption always; sound for all but a few."""
        return ("image", "text", "audio") if self.sound else ("image", "text")

    def members(self, kept: tuple[Modality, ...]) -> dict[str, bytes]:
        """The files' bytes, unchanged."""
        found: dict[str, bytes] = {}
        if "image" in kept:
            found["png"] = (self.folder / self.stamp).read_bytes()
        if "text" in kept:
            found["txt"] = self.caption.encode()
        if "audio" in kept and self.sound:
            found[self.sound.path.suffix[1:]] = self.sound.path.read_bytes()
        return found

    def meta(self, kept: tuple[Modality, ...]) -> dict[str, object]:
        """Language, origin, and what kind of sound there is (null without one)."""
        sound = self.sound if "audio" in kept else None
        return {
            "language": self.language,
            "stamp": self.stamp.as_posix(),
            "audio_kind": sound.kind if sound else None,
            "audio_language": sound.language if sound else None,
        }


def parse_captions(text: str) -> dict[str, str]:
    """Captions by lower-case language: the first line is English, the others are `xx.utf8=caption`."""
    first, *others = text.removeprefix("\ufeff").splitlines() or [""]
    found = {"en": first.strip()}
    for line in others:
        language, mark, caption = line.partition(".utf8=")
        if mark:
            found[language.strip().lower()] = caption.strip()
    return {language: caption for language, caption in found.items() if caption}


def sounds_of(stem: str, files: Iterable[Path]) -> dict[str | None, Path]:
    """Sounds of stamp `stem` among the files of its folder, by spoken language; the effect is under None."""
    naming = re.compile(re.escape(stem) + r"(?P<spoken>_desc(_(?P<language>[A-Za-z_@]+))?)?")
    found: dict[str | None, Path] = {}
    for path in sorted(files):
        match = naming.fullmatch(path.stem)
        if match and path.suffix in AUDIO_SUFFIXES:
            language = (match["language"] or "en").lower() if match["spoken"] else None
            found.setdefault(language, path)  # .ogg sorts before .wav
    return found


def choose_sound(sounds: dict[str | None, Path], language: str) -> Sound | None:
    """The sound that says most about the stamp to a reader of `language`: see the module's docstring."""
    own = [language] if language != "en" else []
    others = sorted(key for key in sounds if key is not None)
    for candidate in (*own, None, "en", "fr", *others):
        path = sounds.get(candidate)
        if path is not None and _is_sound(path):
            return Sound(path, candidate)
    return None


def collect(folder: Path, languages: tuple[str, ...]) -> tuple[list[StampRecord], dict[str, int]]:
    """Records of all usable stamps under `folder`, and how many PNGs were left out for which reason.

    Raises:
        InputError: there is no stamp, or a language that no stamp has.
    """
    records: list[StampRecord] = []
    left_out: Counter[str] = Counter()
    known: set[str] = set()
    for png, siblings in _pictures(folder):
        twin = MIRRORED.sub("", png.stem)
        if twin != png.stem and png.with_name(f"{twin}.png") in siblings:
            left_out["mirror image of another stamp"] += 1
            continue
        captions = _read_captions(png.with_suffix(".txt"))
        if "en" not in captions:
            left_out["no English caption"] += 1
            continue
        if not _is_picture(png):
            left_out["picture cannot be read"] += 1
            continue
        known.update(captions)
        sounds = sounds_of(png.stem, siblings)
        group = _shards.caption_group(captions["en"])
        for language in languages:
            if language not in captions:
                left_out[f"no caption in {language}"] += 1
                continue
            sound = choose_sound(sounds, language)
            stamp = png.relative_to(folder)
            records.append(StampRecord(stamp, folder, language, captions[language], group, sound))
    if not known:
        raise InputError(f"{folder}: no stamps (PNG with a caption beside it) found; check --stamps")
    unknown = [language for language in languages if language not in known]
    if unknown:
        raise InputError(f"--languages: no stamp has {unknown[0]!r}; there are {', '.join(sorted(known))}")
    return records, dict(left_out)


def build(output: Path, options: Options, downloads: Path, stamps: Path | None = None) -> None:
    """Make the set at `output`, from the stamps folder `stamps` or else from Debian's package.

    Raises:
        UsageError: the package cannot be had, the options cannot be met, or `output` is somebody else's.
    """
    name = f"tuxpaint stamps in {stamps}" if stamps else f"Debian {PACKAGE}"
    if _shards.already_there(output, name, options):
        return
    if stamps is None:
        tree, version = _debian.fetch(PACKAGE, downloads)
        stamps = tree / STAMPS
    else:
        version = "unknown"
    typer.echo(f"reading stamps in {stamps}")
    records, left_out = collect(stamps, options.languages)
    for reason, count in left_out.items():
        typer.echo(f"left out: {count} ({reason})")
    typer.echo(f"usable: {len(records)} records")
    _shards.write(output, records, Source(name, version, LICENCE, left_out), options)


def _pictures(folder: Path) -> Iterator[tuple[Path, frozenset[Path]]]:
    """Every PNG under `folder` with all files of its own folder (listed once per folder: 9,600 files)."""
    for place in sorted({png.parent for png in folder.rglob("*.png")}):
        siblings = frozenset(place.iterdir())
        for png in sorted(path for path in siblings if path.suffix == ".png"):
            yield png, siblings


def _read_captions(path: Path) -> dict[str, str]:
    try:
        return parse_captions(path.read_text("utf-8"))
    except (FileNotFoundError, UnicodeDecodeError):
        return {}


def _is_picture(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.verify()  # walks the chunks and their checksums without decoding
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for a broken PNG
        return False
    return True


def _is_sound(path: Path) -> bool:
    try:
        return bool(soundfile.info(path).frames > 0)
    except soundfile.LibsndfileError:
        return False


def main(
    output: Annotated[Path, typer.Option(help="Folder of the shards.")] = Path("data/tuxpaint"),
    rows: Annotated[int | None, typer.Option(help="Records to take, seeded; default: all.")] = None,
    shard_rows: Annotated[int, typer.Option(help="Records in a shard.")] = 100,
    languages: Annotated[str, typer.Option(help="Caption languages, such as en,fr,de.")] = "en",
    missing: Annotated[float, typer.Option(help="Probability of dropping each modality.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Decides split, order, choice and dropping.")] = 0,
    downloads: Annotated[Path, typer.Option(help="Where the package is kept.")] = Path("data/downloads"),
    stamps: Annotated[Path | None, typer.Option(help="Use this stamps folder instead of Debian's.")] = None,
) -> None:
    """Fetch Tux Paint's stamps and write them as image-text-audio shards."""
    try:
        options = Options(rows, shard_rows, _shards.parse_languages(languages), missing, seed)
        build(output, options, downloads, stamps)
    except MmrayError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None


if __name__ == "__main__":
    typer.run(main)
