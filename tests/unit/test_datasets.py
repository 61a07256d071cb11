"""Promises of the builders in datasets/: same options, same bytes; no leak between splits; sound shards."""

import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
import webdataset
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mmray.errors import ConfigError, InputError, OutputError

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "datasets"))  # a script run by path finds its neighbours so
_shards = importlib.import_module("_shards")
_scenes = importlib.import_module("_scenes")
synthetic = importlib.import_module("synthetic")
tuxpaint = importlib.import_module("tuxpaint")

IMAGES = {"png", "jpg", "webp"}
SOUNDS = {"ogg", "wav", "flac"}


def read(folder, split="*"):
    """All records of a set, as the webdataset package reads them, raw bytes by member extension."""
    shards = sorted(str(path) for path in folder.glob(f"{split}-*.tar"))
    return list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False)) if shards else []


def metas(folder, split="*"):
    return [json.loads(record["json"]) for record in read(folder, split)]


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def run(script, *arguments, **environment):
    return subprocess.run(
        [sys.executable, str(ROOT / "datasets" / script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# ---- the shared writer, seen through the synthetic set ----


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    output = tmp_path_factory.mktemp("sets") / "scenes"
    synthetic.build(output, rows=160, shard_rows=50)
    return output


def test_same_options_give_the_same_bytes_in_another_process(scenes, tmp_path):
    done = run("synthetic.py", "--rows", 160, "--shard-rows", 50, "--output", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "again") == contents(scenes)


def test_another_seed_gives_other_records(scenes, tmp_path):
    synthetic.build(tmp_path / "other", rows=160, shard_rows=50, seed=1)
    assert {r["txt"] for r in read(tmp_path / "other")} != {r["txt"] for r in read(scenes)}


def test_shards_are_named_cut_and_counted_as_the_manifest_says(scenes):
    manifest = json.loads((scenes / "dataset.json").read_text())
    assert {path.name for path in scenes.glob("*.tar")} == set(manifest["shards"])
    for split in ("train", "tune", "test"):
        records = read(scenes, split)
        sizes = [s["rows"] for name, s in sorted(manifest["shards"].items()) if name.startswith(split)]
        assert sizes == [50] * (len(records) // 50) + [len(records) % 50] * (len(records) % 50 > 0)
        assert f"{split}-000000.tar" in manifest["shards"]
        counts = manifest["counts"][split]
        assert counts["rows"] == len(records)
        assert counts["labels"] == Counter(json.loads(r["json"])["label"] for r in records)
        assert all(json.loads(r["json"])["split"] == split for r in records)


def test_every_member_decodes_and_keys_have_no_dots(scenes):
    extensions, rates, channels = set(), set(), set()
    for record in read(scenes):
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,90}", record["__key__"])
        members = {name for name in record if not name.startswith("__")}
        (image,), (sound,) = members & IMAGES, members & SOUNDS
        with Image.open(io.BytesIO(record[image])) as picture:
            picture.load()
            assert 64 <= min(picture.size) <= max(picture.size) <= 200
        wave, rate = soundfile.read(io.BytesIO(record[sound]), always_2d=True)
        assert 0.35 < len(wave) / rate < 1.3
        assert 0.01 < np.abs(wave).max() <= 1.0
        assert record["txt"].decode().endswith("sound.")
        extensions |= {image, sound}
        rates.add(rate)
        channels.add(wave.shape[1])
    assert extensions == IMAGES | SOUNDS
    assert len(rates) > 3
    assert channels == {1, 2}


def test_a_rerun_touches_nothing_and_is_instant(scenes, capsys):
    before = {path: path.stat() for path in scenes.iterdir()}
    start = time.perf_counter()
    synthetic.build(scenes, rows=160, shard_rows=50)
    assert time.perf_counter() - start < 0.5
    assert "already there" in capsys.readouterr().out
    after = {path: path.stat() for path in scenes.iterdir()}
    assert {p: (s.st_ino, s.st_mtime_ns) for p, s in before.items()} == {
        p: (s.st_ino, s.st_mtime_ns) for p, s in after.items()
    }


def test_other_options_or_a_damaged_shard_make_the_set_anew(tmp_path):
    output = tmp_path / "set"
    synthetic.build(output, rows=12)
    first = contents(output)
    synthetic.build(output, rows=8)
    assert len(read(output)) == 8
    synthetic.build(output, rows=12)
    (output / "train-000000.tar").write_bytes(b"")
    synthetic.build(output, rows=12)
    assert contents(output) == first
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_larger_set_contains_the_smaller_one_in_the_same_split(scenes, tmp_path):
    folder = tmp_path / "stamps"
    for number in range(40):
        stamp(folder / f"things/thing{number}", f"Thing {number}.")
    for rows in (15, 30):
        tuxpaint.build(tmp_path / str(rows), _shards.Options(rows=rows), tmp_path, folder)
    for split in ("train", "tune", "test"):
        small, large = ({r["__key__"] for r in read(tmp_path / n, split)} for n in ("15", "30"))
        assert small <= large
    assert (len(read(tmp_path / "15")), len(read(tmp_path / "30"))) == (15, 30)


def test_a_foreign_folder_is_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(OutputError, match="give another --output"):
        synthetic.build(tmp_path, rows=4)
    (tmp_path / "dataset.json").write_text('{"title": "of another program"}')
    with pytest.raises(OutputError, match="give another --output"):
        synthetic.build(tmp_path, rows=4)
    assert (tmp_path / "thesis.txt").read_text() == "three years of work"


def test_a_build_that_breaks_off_leaves_the_old_set_and_no_litter(tmp_path):
    output = tmp_path / "set"
    synthetic.build(output, rows=12)
    before = contents(output)
    folder = tmp_path / "stamps"
    stamp(folder / "food/apple", "An apple.")
    records, _ = tuxpaint.collect(folder, ("en",))
    shutil.rmtree(folder)  # so reading the PNG fails in the middle of a shard
    with pytest.raises(FileNotFoundError):
        _shards.write(output, records, _shards.Source("x", "1", "none"), _shards.Options())
    assert contents(output) == before
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("seed", [0, 7])
def test_a_caption_group_is_in_one_split_whatever_the_language(tmp_path, seed):
    folder = tmp_path / "stamps"
    for number in range(60):
        stamp(folder / f"a/thing{number}", f"Thing {number % 20}.", fr=f"Chose {number}.")
    tuxpaint.build(tmp_path / "s", _shards.Options(languages=("en", "fr"), seed=seed), tmp_path, folder)
    splits = defaultdict(set)
    for meta in metas(tmp_path / "s"):
        splits[meta["caption_group"]].add(meta["split"])
    assert len(splits) == 20
    assert all(len(found) == 1 for found in splits.values())
    assert set.union(*splits.values()) == {"train", "tune", "test"}


def test_a_fifth_of_the_groups_is_test_a_quarter_of_the_others_tune_and_the_seed_decides_which():
    groups = [_shards.caption_group(f"caption {n}") for n in range(5_000)]
    first, second = ([_shards.split_of(group, seed) for group in groups] for seed in (0, 1))
    for split, share in (("train", 0.6), ("tune", 0.2), ("test", 0.2)):
        assert abs(first.count(split) / 5_000 - share) < 0.03  # more than four standard deviations
    assert first != second


def test_caption_groups_ignore_case_punctuation_and_spacing_only():
    group = _shards.caption_group
    assert group("A happy lion!") == group("  a HAPPY\tlion.") != group("A happy lioness!")


def test_modalities_go_missing_at_the_asked_rate_and_never_all(tmp_path):
    synthetic.build(tmp_path / "s", rows=400, missing=0.4)
    records = read(tmp_path / "s")
    absent = Counter()
    for record in records:
        have = [
            m for m, names in (("image", IMAGES), ("text", {"txt"}), ("audio", SOUNDS)) if names & set(record)
        ]
        assert have
        assert json.loads(record["json"])["modalities"] == have
        absent.update({"image", "text", "audio"} - set(have))
    # 0.4 less the records that would have lost all three, which keep one: 0.4 - 0.4**3 / 3 = 0.379
    for modality in ("image", "text", "audio"):
        assert abs(absent[modality] / len(records) - 0.379) < 0.1  # four standard deviations
    manifest = json.loads((tmp_path / "s" / "dataset.json").read_text())
    kept = Counter()
    for split in manifest["counts"].values():
        kept.update(split["modalities"])
    assert {m: len(records) - kept[m] for m in absent} == dict(absent)


@pytest.mark.parametrize(
    "options",
    [{"rows": 0}, {"shard_rows": 0}, {"missing": 1.5}, {"missing": float("nan")}, {"languages": ()}],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match="--"):
        _shards.Options(**options)


# ---- the synthetic set ----


def test_an_unknown_language_is_one_line_and_exit_code_2(tmp_path):
    done = run("synthetic.py", "--rows", 4, "--languages", "en,tlh", "--output", tmp_path / "s")
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["error: --languages: no words for 'tlh'; there are en, fr"]
    assert not (tmp_path / "s").exists()


def test_languages_take_turns_and_say_the_same(tmp_path):
    synthetic.build(tmp_path / "s", rows=16, languages=("en", "fr"))
    languages = Counter(meta["language"] for meta in metas(tmp_path / "s"))
    assert languages == {"en": 8, "fr": 8}
    french = [r["txt"].decode() for r in read(tmp_path / "s") if r["__key__"].endswith("-fr")]
    assert len(french) == 8
    assert all(text.startswith("Un ") for text in french)


def test_an_ogg_stream_takes_a_serial_and_keeps_valid_checksums():
    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(0).uniform(-0.5, 0.5, 60_000), 8_000, format="OGG")
    data = buffer.getvalue()
    changed = _scenes.with_ogg_serial(data, 0xDEADBEEF)
    assert changed.count(b"\xef\xbe\xad\xde") >= data.count(b"OggS") > 2
    original = int.from_bytes(data[14:18], "little")
    assert _scenes.with_ogg_serial(changed, original) == data  # so each checksum is the encoder's own
    with pytest.raises(ValueError, match="not an Ogg page"):
        _scenes.with_ogg_serial(b"RIFF", 1)


@pytest.mark.long
def test_three_modalities_together_beat_any_two_and_those_any_one(tmp_path):
    """With plain hand-made features, so that it is the data that makes the difference."""
    synthetic.build(tmp_path / "s", rows=700)
    parts, labels = {}, {}
    for split in ("train", "tune", "test"):
        records = read(tmp_path / "s", split)
        parts[split] = {
            "image": np.array([look(record) for record in records]),
            "text": np.array([words(record) for record in records]),
            "audio": np.array([listen(record) for record in records]),
        }
        labels[split] = [json.loads(record["json"])["label"] for record in records]

    def accuracy(*names):
        train, test = (np.hstack([parts[split][name] for name in names]) for split in ("train", "test"))
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000)).fit(
            train, labels["train"]
        )
        return model.score(test, labels["test"])

    one = [accuracy("image"), accuracy("text"), accuracy("audio")]
    two = [accuracy("image", "text"), accuracy("text", "audio"), accuracy("image", "audio")]
    three = accuracy("image", "text", "audio")
    assert min(one) > 0.3  # guessing: 0.125
    assert max(one) < 0.55
    assert min(two) > max(one) + 0.2
    assert three > max(two) + 0.03


def look(record):
    """Mean colour of the coloured pixels, and how elliptic they lie (1 for an ellipse, less for corners)."""
    data = next(record[name] for name in record if name in IMAGES)
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float)
    mask = np.ptp(pixels, axis=2) > 60
    area = mask.sum()
    spread = np.linalg.det(np.cov(np.nonzero(mask)))
    return [*pixels[mask].mean(axis=0), area / (4 * np.pi * np.sqrt(spread))]


def words(record):
    text = record["txt"].decode()
    known = [w for kind in ("warm", "cool", "high", "low") for w in synthetic.WORDS["en"][kind].split("|")]
    return [float(f" {word} " in text) for word in known]


def listen(record):
    """Log of the mean frequency, and how much the loudness of 20 ms frames varies."""
    data = next(record[name] for name in record if name in SOUNDS)
    wave, rate = soundfile.read(io.BytesIO(data), always_2d=True)
    mono = wave.mean(axis=1)
    power = np.abs(np.fft.rfft(mono)) ** 2
    hz = np.fft.rfftfreq(len(mono), 1 / rate)
    size = rate // 50
    frames = mono[: len(mono) // size * size].reshape(-1, size)
    loud = np.sqrt((frames**2).mean(axis=1))
    return [np.log((power * hz).sum() / power.sum()), loud.std() / loud.mean()]


# ---- Tux Paint's stamps ----


def stamp(path, caption=None, mode="RGBA", sounds=(), **others):
    """A stamp at `path` (without ending), as the package has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((24, 16), 80).convert(mode).save(f"{path}.png")
    if caption is not None:
        lines = [caption, *(f"{language}.utf8={text}" for language, text in others.items())]
        Path(f"{path}.txt").write_text("\n".join(lines) + "\n", "utf-8")
    for ending in sounds:
        soundfile.write(f"{path}{ending}", np.linspace(-0.5, 0.5, 4_000), 8_000)


@pytest.fixture
def stamps(tmp_path):
    folder = tmp_path / "stamps"
    stamp(
        folder / "animals/birds/crow",
        "A crow.",
        sounds=(".ogg", "_desc.ogg", "_desc_fr.ogg"),
        fr="Un corbeau.",
    )
    stamp(folder / "animals/birds/crow_mirror")
    stamp(folder / "animals/birds/crow_black", "A black crow.", sounds=("_desc.ogg", "_desc_fr.ogg"))
    stamp(folder / "food/apple", "An apple.", "P", sounds=("_desc_fr.ogg", "_desc_ru.ogg"), fr="Une pomme.")
    stamp(
        folder / "food/pear.v2",
        "A pear.",
        "LA",
        sounds=("_desc_pt_BR.wav", "_desc_ru.ogg"),
        pt_BR="Uma pera.",
    )
    stamp(folder / "food/plum", "a CROW", "RGB")
    stamp(folder / "space/moon")
    stamp(folder / "space/star", "A star.")
    broken = folder / "space/star.png"
    broken.write_bytes(broken.read_bytes()[:-40])
    return folder


def test_captions_are_english_first_then_by_language():
    text = "\ufeffA knight's helmet.\nfr.utf8=Un heaume.\npt_BR.utf8= Um elmo \nde.utf8=\nno language here\n"
    assert tuxpaint.parse_captions(text) == {
        "en": "A knight's helmet.",
        "fr": "Un heaume.",
        "pt_br": "Um elmo",
    }
    assert tuxpaint.parse_captions("") == {}
    assert tuxpaint.parse_captions("\nfr.utf8=Un.") == {"fr": "Un."}


def test_sounds_of_a_stamp_are_not_those_of_its_neighbours(stamps):
    files = list((stamps / "animals/birds").iterdir())
    crow = {language: path.name for language, path in tuxpaint.sounds_of("crow", files).items()}
    assert crow == {None: "crow.ogg", "en": "crow_desc.ogg", "fr": "crow_desc_fr.ogg"}
    assert set(tuxpaint.sounds_of("crow_black", files)) == {"en", "fr"}


@pytest.mark.parametrize(
    ("stem", "language", "expected"),
    [
        ("animals/birds/crow", "en", ("crow.ogg", "effect", None)),
        ("animals/birds/crow", "fr", ("crow_desc_fr.ogg", "spoken", "fr")),
        ("animals/birds/crow", "de", ("crow.ogg", "effect", None)),
        ("animals/birds/crow_black", "en", ("crow_black_desc.ogg", "spoken", "en")),
        ("food/apple", "en", ("apple_desc_fr.ogg", "spoken", "fr")),
        ("food/apple", "ru", ("apple_desc_ru.ogg", "spoken", "ru")),
        ("food/pear.v2", "en", ("pear.v2_desc_pt_BR.wav", "spoken", "pt_br")),
        ("food/plum", "en", None),
    ],
)
def test_the_most_telling_sound_is_chosen(stamps, stem, language, expected):
    path = stamps / stem
    sound = tuxpaint.choose_sound(tuxpaint.sounds_of(path.name, path.parent.iterdir()), language)
    assert (sound and (sound.path.name, sound.kind, sound.language)) == expected


def test_a_broken_sound_gives_way_to_the_next(stamps):
    (stamps / "animals/birds/crow.ogg").write_bytes(b"OggS but not really")
    sounds = tuxpaint.sounds_of("crow", (stamps / "animals/birds").iterdir())
    assert tuxpaint.choose_sound(sounds, "en").path.name == "crow_desc.ogg"


def test_unusable_stamps_are_left_out_and_counted_by_reason(stamps):
    records, left_out = tuxpaint.collect(stamps, ("en", "fr"))
    assert sorted(record.key for record in records) == [
        "animals-birds-crow",
        "animals-birds-crow-fr",
        "animals-birds-crow_black",
        "food-apple",
        "food-apple-fr",
        "food-pear_v2",
        "food-plum",
    ]
    assert left_out == {
        "mirror image of another stamp": 1,
        "no English caption": 1,
        "picture cannot be read": 1,
        "no caption in fr": 3,
    }


def test_a_language_without_any_caption_and_an_empty_folder_are_refused(stamps, tmp_path):
    with pytest.raises(InputError, match=r"no stamp has 'tlh'; there are en, fr, pt_br"):
        tuxpaint.collect(stamps, ("en", "tlh"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="check --stamps"):
        tuxpaint.collect(tmp_path / "empty", ("en",))


def test_two_stamps_with_the_same_key_are_refused(stamps, tmp_path):
    stamp(stamps / "food/pear_v2", "Another pear.")
    with pytest.raises(InputError, match="'food-pear_v2'"):
        tuxpaint.build(tmp_path / "s", _shards.Options(), tmp_path, stamps)


def test_the_script_writes_the_files_as_they_are(stamps, tmp_path):
    arguments = ("--stamps", stamps, "--languages", "en,FR", "--shard-rows", 3)
    for name in ("one", "two"):
        done = run("tuxpaint.py", *arguments, "--output", tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert "left out: 1 (mirror image of another stamp)" in done.stdout
    assert contents(tmp_path / "one") == contents(tmp_path / "two")

    records = {record["__key__"]: record for record in read(tmp_path / "one")}
    assert len(records) == 7
    french = records["animals-birds-crow-fr"]
    assert french["png"] == (stamps / "animals/birds/crow.png").read_bytes()
    assert french["txt"].decode() == "Un corbeau."
    assert french["ogg"] == (stamps / "animals/birds/crow_desc_fr.ogg").read_bytes()
    meta = json.loads(french["json"])
    group = meta.pop("caption_group")
    assert (
        group == json.loads(records["food-plum"]["json"])["caption_group"] == _shards.caption_group("A crow.")
    )
    assert meta == {
        "label": "animals",
        "split": _shards.split_of(group, 0),
        "modalities": ["image", "text", "audio"],
        "language": "fr",
        "stamp": "animals/birds/crow.png",
        "audio_kind": "spoken",
        "audio_language": "fr",
        "licence": "GPL-2",
        "source": f"tuxpaint stamps in {stamps}",
    }
    assert "wav" in records["food-pear_v2"]
    assert json.loads(records["food-plum"]["json"])["audio_kind"] is None


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="packs and unpacks a real .deb")
def test_a_downloaded_package_is_unpacked_once_and_used_again(stamps, tmp_path):
    package = tmp_path / "package"
    (package / "DEBIAN").mkdir(parents=True)
    (package / "DEBIAN/control").write_text(
        "Package: tuxpaint-stamps-default\nVersion: 1:2.0-1\nArchitecture: all\n"
        "Maintainer: Nobody <nobody@example.org>\nDescription: stamps of a test\n"
    )
    shutil.copytree(stamps, package / "usr/share/tuxpaint/stamps")
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    deb = downloads / "tuxpaint-stamps-default_1%3a2.0-1_all.deb"
    subprocess.run(["dpkg-deb", "-b", "--root-owner-group", package, deb], check=True, capture_output=True)
    options = _shards.Options()

    tuxpaint.build(tmp_path / "one", options, downloads)
    assert json.loads((tmp_path / "one/dataset.json").read_text())["version"] == "1:2.0-1"
    deb.unlink()
    tuxpaint.build(tmp_path / "two", options, downloads)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="runs dpkg-deb")
def test_a_damaged_package_is_named_with_the_remedy(tmp_path):
    deb = tmp_path / "tuxpaint-stamps-default_1_all.deb"
    deb.write_bytes(b"half a download")
    with pytest.raises(InputError, match=f"remove {re.escape(str(deb))} to fetch it again"):
        tuxpaint.build(tmp_path / "s", _shards.Options(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [deb.name]


def test_without_apt_the_script_says_so_in_one_line_and_exits_2(tmp_path):
    output, downloads = tmp_path / "s", tmp_path / "d"
    done = run("tuxpaint.py", "--output", output, "--downloads", downloads, PATH=str(tmp_path))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: apt-get not found")
    assert "datasets/synthetic.py" in done.stderr
    assert not output.exists()


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="runs apt-get")
def test_a_package_that_the_archive_does_not_have_is_one_line_and_exit_code_2(tmp_path):
    nothing = tmp_path / "apt.conf"
    nothing.write_text('Dir::Etc::SourceList "/dev/null";\nDir::Etc::SourceParts "/dev/null";\n')
    output, downloads = tmp_path / "s", tmp_path / "d"
    done = run("tuxpaint.py", "--output", output, "--downloads", downloads, APT_CONFIG=str(nothing))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: apt-get cannot download tuxpaint-stamps-default: ")
    assert "Unable to locate package" in line
    assert list(downloads.iterdir()) == []
