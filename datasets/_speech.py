"""Speak words with eSpeak NG: about a second of mono Ogg Vorbis each, in varied voices, with a little noise.

The library and its data come in the wheel `espeakng-loader` (extra `emoji`). It keeps state from one word to
the next, and speaks the same word a little differently. So words are spoken in blocks whose order is given,
each block in a fresh process: the same list gives the same bytes.
"""

from __future__ import annotations

import ctypes
import io
import multiprocessing
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soundfile
from _scenes import with_ogg_serial

from mmray.errors import InputError

RATE = 22_050  # Hz, eSpeak's own
SECONDS = 1.0  # the shortest clip; the word lies anywhere in it
BLOCK = 128  # words of a process
SPEEDS = (130, 150, 170, 190)  # words a minute
PITCHES = (35, 50, 65)  # of eSpeak's 0 to 99
#: eSpeak's variants, men's and women's. None with `breath`: that is noise which is never twice the same.
TIMBRES = ("", "+m3", "+m7", "+f1", "+f4")

#: eSpeak's voices of each language that can be spoken.
VOICES = {
    "en": ("en", "en-us", "en-gb-x-rp", "en-gb-scotland"),
    "de": ("de",),
    "es": ("es", "es-419"),
    "fr": ("fr", "fr-be", "fr-ch"),
    "zh": ("cmn",),
}

# Of speak_lib.h, eSpeak NG 1.52.
_SYNCHRONOUS, _DONT_EXIT = 2, 0x8000
_SPEED, _PITCH = 1, 3
_UTF8, _CHARACTERS = 1, 1

Wave = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Utterance:
    """A word and how it is said."""

    word: str
    voice: str
    speed: int  # words a minute
    pitch: int  # 0 to 99
    snr_db: float  # loudness of the voice over the noise
    peak: float  # of the whole clip, full scale is 1
    seed: int  # of the noise, and of the word's place in the clip


def draw(word: str, language: str, rng: random.Random) -> Utterance:
    """A way to say `word`, drawn at random."""
    return Utterance(
        word,
        voice=rng.choice(VOICES[language]) + rng.choice(TIMBRES),
        speed=rng.choice(SPEEDS),
        pitch=rng.choice(PITCHES),
        snr_db=rng.uniform(15, 35),
        peak=rng.uniform(0.3, 0.9),
        seed=rng.getrandbits(32),
    )


def speak(lists: Sequence[Sequence[Utterance]]) -> list[list[bytes]]:
    """An Ogg Vorbis file of each word, mono, 22,050 Hz, at least a second; made on all cores.

    What is made of a list depends on that list alone. 5,600 words take 75 s of a core's time.

    Raises:
        InputError: the library is not installed, has no such voice, or says nothing for a word.
    """
    try:
        import espeakng_loader  # noqa: F401
    except ImportError as e:
        raise InputError(
            "espeakng-loader, which speaks the words, is missing: pip install -e '.[emoji]'"
        ) from e
    blocks = [
        (number, words[start : start + BLOCK])
        for number, words in enumerate(lists)
        for start in range(0, len(words), BLOCK)
    ]
    sounds: list[list[bytes]] = [[] for _ in lists]
    processes = min(len(blocks), os.cpu_count() or 1) or 1
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        spoken = pool.imap(_speak_block, [words for _, words in blocks])
        for (number, _), found in zip(blocks, spoken, strict=True):
            sounds[number] += found
    return sounds


def _speak_block(utterances: Sequence[Utterance]) -> list[bytes]:
    say = _Voice()
    return [_encode(_clip(say(utterance), utterance), utterance) for utterance in utterances]


class _Voice:
    """eSpeak in this process."""

    def __init__(self) -> None:
        import espeakng_loader

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, _DONT_EXIT)
        if rate != RATE:
            raise InputError(
                f"espeak_Initialize answered {rate}, expected {RATE} Hz; reinstall espeakng-loader"
            )
        self._heard = bytearray()
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._hear = kind(self._keep)  # held here: the library has only a pointer to it
        self._library.espeak_SetSynthCallback(self._hear)

    def __call__(self, utterance: Utterance) -> Wave:
        """Samples [T] in -1 to 1."""
        self._heard.clear()
        if self._library.espeak_SetVoiceByName(utterance.voice.encode()):
            raise InputError(f"eSpeak has no voice {utterance.voice!r}; choose others in datasets/_speech.py")
        self._library.espeak_SetParameter(_SPEED, utterance.speed, 0)
        self._library.espeak_SetParameter(_PITCH, utterance.pitch, 0)
        text = utterance.word.encode() + b"\0"
        self._library.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, _CHARACTERS, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        wave: Wave = np.frombuffer(bytes(self._heard), np.int16).astype(np.float32) / np.float32(32_768)
        if not wave.any():
            raise InputError(f"eSpeak says nothing for {utterance.word!r} in voice {utterance.voice!r}")
        return wave

    def _keep(self, samples: object, count: int, _events: object) -> int:
        if samples and count > 0:
            self._heard += ctypes.string_at(samples, 2 * count)  # type: ignore[arg-type]
        return 0


def _clip(voice: Wave, utterance: Utterance) -> Wave:
    """The voice somewhere in a clip of noise."""
    rng = np.random.default_rng(utterance.seed)
    clip = np.zeros(max(len(voice), int(SECONDS * RATE)), np.float32)
    start = rng.integers(len(clip) - len(voice) + 1)
    clip[start : start + len(voice)] = voice
    loudness = np.sqrt(np.mean(np.square(voice)))
    clip += rng.standard_normal(len(clip), np.float32) * loudness * 10 ** (-utterance.snr_db / 20)
    scaled: Wave = (clip * utterance.peak / np.abs(clip).max()).astype(np.float32)
    return scaled


def _encode(wave: Wave, utterance: Utterance) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, RATE, format="OGG", subtype="VORBIS")
    return with_ogg_serial(buffer.getvalue(), utterance.seed)
