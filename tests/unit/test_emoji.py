"""Promises of datasets/emoji.py, on a few emoji in tarballs laid out as npm's; nothing is fetched."""

import importlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import webdataset
from PIL import Image

from mmray.errors import ConfigError, InputError

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "datasets"))  # a script run by path finds its neighbours so
_emojidata = importlib.import_module("_emojidata")
_npm = importlib.import_module("_npm")
_shards = importlib.import_module("_shards")
_speech = importlib.import_module("_speech")
emoji = importlib.import_module("emoji")

FACES = [f"1F60{n}" for n in range(8)]
CATS = [f"1F63{n}-FE0F" for n in range(8)]  # emojibase writes these without the selector
EVERYBODY = frozenset(_emojidata.ARTISTS)


def entry(code, category, subcategory, artists=EVERYBODY):
    """An element of emoji.json."""
    found = {
        "unified": code,
        "image": f"{code.lower()}.png",
        "category": category,
        "subcategory": subcategory,
    }
    return found | {f"has_img_{artist}": artist in artists for artist in _emojidata.ARTISTS}


EMOJI = [
    *(entry(code, "Smileys & Emotion", "face-smiling") for code in FACES),
    *(entry(code, "Smileys & Emotion", "cat-face") for code in CATS),
    entry("1FAE9", "Smileys & Emotion", "cat-face", EVERYBODY - {"facebook"}),
    entry("1F648", "Smileys & Emotion", "monkey-face"),
    entry("1F649", "Smileys & Emotion", "monkey-face", EVERYBODY - {"twitter"}),
    entry("1F3FB", "Component", "skin-tone"),
    *(entry(f"1F1E{n}", "Flags", "country-flag") for n in range(9)),
]


def picture(seed):
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (64, 64, 4), np.uint8)
    Image.fromarray(noise, "RGBA").save(buffer, "PNG")
    return buffer.getvalue()


def pack(downloads, name, version, members):
    """An npm tarball in `downloads`, and the package that it is."""
    path = downloads / f"{name}-{version}.tgz"
    with tarfile.open(path, "w:gz") as tar:
        for member, data in members.items():
            info = tarfile.TarInfo(f"package/{member}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return _npm.Package(name, version, _npm.sha512(path))


def make_packages(downloads):
    """Tarballs of four artists and of words in English and German."""
    downloads.mkdir()
    pictures = {}
    for seed, artist in enumerate(_emojidata.ARTISTS):
        folder = f"img/{artist}/64"
        members = {
            f"{folder}/{one['image']}": picture([seed, n])
            for n, one in enumerate(EMOJI)
            if one[f"has_img_{artist}"]
        }
        members |= {f"{folder}/1f600-1f3fb.png": b"a skin tone", f"img/{artist}/sheets/64.png": b"large"}
        members["emoji.json"] = json.dumps(EMOJI).encode()
        pictures[artist] = pack(downloads, f"emoji-datasource-{artist}", "1.0.0", members)
    english = [
        {
            "hexcode": one["unified"].removesuffix("-FE0F"),
            "label": "Grin",
            "tags": ["grin", "happy", "smile", "!?"],
        }
        for one in EMOJI
    ]
    german = [{**one, "label": "grinsend", "tags": ["froh", "Lachen"]} for one in english]
    words = {"en/data.json": english, "de/data.json": german, "ja/data.json": english}
    members = {name: json.dumps(value).encode() for name, value in words.items()}
    return _emojidata.Packages(pictures, pack(downloads, "emojibase-data", "2.0.0", members))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The set of fold twitter, with the downloads and packages that it was made of."""
    home = tmp_path_factory.mktemp("emoji")
    packages = make_packages(home / "downloads")
    emoji.build(home / "set", _shards.Options(shard_rows=10), home / "downloads", packages=packages)
    return home, packages


def read(folder):
    shards = sorted(map(str, folder.glob("*.tar")))
    records = list(webdataset.WebDataset(shards, shardshuffle=False))
    return {record["__key__"]: (record, json.loads(record["json"])) for record in records}


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_artist_decides_the_split_and_names_the_shards(made):
    home, _ = made
    records = read(home / "set")
    assert len(records) == 16 * 4
    splits = {"google": "train", "apple": "train", "facebook": "tune", "twitter": "test"}
    for key, (record, meta) in records.items():
        assert key == f"{meta['artist']}-{meta['caption_group']}"
        assert meta["split"] == splits[meta["artist"]]
        assert Path(record["__url__"]).name.startswith(f"{meta['split']}-0000")
        assert meta["label"] == ("cat-face" if meta["caption_group"].startswith("1f63") else "face-smiling")
    assert records["apple-1f604"][1]["emoji"] == "\U0001f604"
    manifest = json.loads((home / "set/dataset.json").read_text())
    assert {part: counts["rows"] for part, counts in manifest["counts"].items()} == {
        "train": 32,
        "tune": 16,
        "test": 16,
    }
    assert manifest["left_out"]["not drawn by all artists"] == 1


def test_members_are_the_artists_picture_one_keyword_and_about_a_second_of_speech(made):
    home, _ = made
    seen = Counter()
    for record, meta in read(home / "set").values():
        names = {"image": "png", "text": "txt", "audio": "ogg"}
        assert [m for m, name in names.items() if name in record] == meta["modalities"] != []
        seen.update(meta["modalities"])
        if "png" in record:
            tree = home / f"downloads/emoji-datasource-{meta['artist']}-1.0.0/img/{meta['artist']}/64"
            assert any(path.read_bytes() == record["png"] for path in tree.glob(f"{meta['caption_group']}*"))
        if "txt" in record:
            assert record["txt"].decode() in ("happy", "smile")  # neither the name nor what cannot be said
        assert (meta["spoken"] in ("happy", "smile")) == ("ogg" in record)
        if "ogg" in record:
            wave, rate = soundfile.read(io.BytesIO(record["ogg"]))
            assert (rate, wave.ndim) == (22_050, 1)
            assert 1.0 <= len(wave) / rate < 2.0
            assert 0.2 < np.abs(wave).max() <= 1.0
    assert min(seen.values()) > 40


def test_what_has_no_class_is_a_set_of_its_own_by_the_test_artist(made):
    home, _ = made
    metas = [meta for _, meta in read(home / "set-unknown").values()]
    assert Counter(meta["label"] for meta in metas) == {"country-flag": 9, "monkey-face": 1, "skin-tone": 1}
    assert {(meta["artist"], meta["split"]) for meta in metas} == {("twitter", "test")}
    assert all(path.name.startswith("unknown-") for path in (home / "set-unknown").glob("*.tar"))


def test_another_fold_changes_the_splits_and_no_byte_of_the_members(made, tmp_path):
    home, packages = made
    emoji.build(tmp_path / "set", _shards.Options(), home / "downloads", "apple", packages)
    before, after = read(home / "set"), read(tmp_path / "set")
    assert before.keys() == after.keys()
    for key, (record, meta) in after.items():
        for name in ("png", "txt", "ogg"):
            assert record.get(name) == before[key][0].get(name)
        assert meta["split"] == {"apple": "test", "google": "tune"}.get(meta["artist"], "train")


def test_a_rerun_touches_nothing(made, capsys):
    home, packages = made
    before = contents(home / "set") | contents(home / "set-unknown")
    emoji.build(home / "set", _shards.Options(shard_rows=10), home / "nowhere", packages=packages)
    assert capsys.readouterr().out.count("already there") == 2
    assert contents(home / "set") | contents(home / "set-unknown") == before


def test_only_what_is_needed_is_unpacked_and_it_is_used_again(made):
    home, packages = made
    tree = home / "downloads/emoji-datasource-apple-1.0.0"
    assert {path.name for path in tree.rglob("*.*")} == {"emoji.json", *(one["image"] for one in EMOJI)}
    assert not (home / "downloads/emojibase-data-2.0.0/ja").exists()
    unpacked = (tree / "emoji.json").stat().st_ino
    assert _emojidata.fetch(packages, home / "downloads")[0]["apple"] == tree
    assert (tree / "emoji.json").stat().st_ino == unpacked


def test_a_tarball_that_is_not_the_published_one_is_named_with_the_remedy(tmp_path):
    packages = make_packages(tmp_path / "downloads")
    tarball = tmp_path / "downloads/emoji-datasource-google-1.0.0.tgz"
    tarball.write_bytes(tarball.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"google-1\.0\.0\.tgz: not the published file .* remove it"):
        emoji.build(tmp_path / "set", _shards.Options(), tmp_path / "downloads", packages=packages)
    assert not (tmp_path / "set").exists()


def test_without_npm_the_script_says_so_in_one_line_and_exits_2(tmp_path):
    command = [
        sys.executable,
        ROOT / "datasets/emoji.py",
        "--output",
        tmp_path / "s",
        "--downloads",
        tmp_path,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: npm not found, needed for emoji-datasource-google@16.0.0: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test": "samsung"}, "--fold samsung: no such artist; there are google, apple, facebook, twitter"),
        ({"options": _shards.Options(languages=("en", "tlh"))}, "--languages: no voice for 'tlh'"),
    ],
)
def test_options_that_cannot_be_met_are_refused_before_anything_is_fetched(tmp_path, arguments, message):
    options = {"options": _shards.Options(), "downloads": tmp_path / "none", "test": "twitter"} | arguments
    with pytest.raises(ConfigError, match=message):
        emoji.build(tmp_path / "set", **options)


@pytest.mark.parametrize("test", _emojidata.ARTISTS)
def test_every_fold_has_one_artist_to_test_one_to_tune_and_two_to_train(test):
    parts = _emojidata.parts_of(test)
    assert parts[test] == "test"
    assert Counter(parts.values()) == {"train": 2, "tune": 1, "test": 1}


def test_over_all_folds_every_artist_is_tuned_on_once():
    tuned = [
        a for test in _emojidata.ARTISTS for a, part in _emojidata.parts_of(test).items() if part == "tune"
    ]
    assert sorted(tuned) == sorted(_emojidata.ARTISTS)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["Ox", "animal"], ("animal",)),
        (["ox"], ("ox",)),
        (["?", "ox", "7:30"], ("7:30",)),
        (["!?"], ("ox",)),
        (None, ("ox",)),
    ],
)
def test_keywords_are_words_and_not_the_name_where_there_is_another(tags, expected):
    found = {"label": "ox"} if tags is None else {"label": "ox", "tags": tags}
    assert _emojidata.keywords(found) == expected


def test_languages_and_missing_modalities_come_in_their_shares():
    words = {"en": ("happy", "smile"), "de": ("froh",)}
    options = _shards.Options(languages=("en", "de"))
    records = [
        emoji.draw(
            _emojidata.Emoji(f"{n:x}", "a.png", "", "", (), words), "apple", "train", Path("a"), options
        )
        for n in range(4_000)
    ]
    have = Counter(m for record in records for m in record.modalities)
    # The tolerance is more than four standard deviations of 4,000 draws.
    for modality, missing in emoji.MISSING.items():
        assert abs(1 - have[modality] / 4_000 - missing) < 0.02
    assert all(record.modalities for record in records)
    german = [record for record in records if record.language == "de"]
    assert abs(len(german) / 4_000 - 0.5) < 0.04
    assert {record.text for record in german} == {"froh", None}


def test_every_voice_speaks_and_an_order_is_always_spoken_alike():
    words = {
        "en": "helicopter",
        "de": "Hubschrauber",
        "es": "helicóptero",
        "fr": "hélicoptère",
        "zh": "直升机",
    }
    ways = [
        _speech.Utterance(words[language], voice + timbre, 170, 50, 90.0, 0.5, 0)
        for language, voices in _speech.VOICES.items()
        for voice in voices
        for timbre in _speech.TIMBRES
    ]
    (sounds, again) = (_speech.speak([ways])[0] for _ in range(2))
    assert sounds == again
    assert len(set(sounds)) == len(ways)


def test_a_word_without_a_sound_and_an_unknown_voice_are_named():
    with pytest.raises(InputError, match=r"says nothing for '\.\.\.'"):
        _speech.speak([[_speech.Utterance("...", "en", 170, 50, 30.0, 0.5, 0)]])
    with pytest.raises(InputError, match="no voice 'tlh'"):
        _speech.speak([[_speech.Utterance("batlh", "tlh", 170, 50, 30.0, 0.5, 0)]])
