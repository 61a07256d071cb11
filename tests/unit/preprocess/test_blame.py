"""What a library raises about a record is that record's fault; what the machine lacks is nobody's."""

import errno
import os

import PIL.Image
import pytest
import soundfile
import soxr
from support.bundles import SPEC, records_table, small_tokenizer
from support.media import clip, image_bytes

from mmray.errors import RecordError, about_record, of_machine
from mmray.preprocess import Preprocessor

ROWS = [{"image": image_bytes(), "text": b"a red cat", "audio": clip(rate=8_000)}, {"text": b"a dog"}]


class PanicException(BaseException):
    """Derives from BaseException there, too."""


class LibraryError(Exception):
    """Of a library that shares no base with others."""


def raising(failure):
    def fail(*_, **__):
        raise failure

    return fail


def break_one(monkeypatch, modality, failure):
    """A preprocessor whose decoder of a modality fails."""
    preprocess = Preprocessor(SPEC, small_tokenizer())
    if modality == "image":
        monkeypatch.setattr(PIL.Image, "open", raising(failure))
    elif modality == "resampling":
        monkeypatch.setattr(soxr, "resample", raising(failure))
    elif modality == "audio":
        monkeypatch.setattr(soundfile, "SoundFile", raising(failure))
    else:

        class Broken:
            encode_batch = staticmethod(raising(failure))

        monkeypatch.setattr(preprocess._tokenize, "_tokenizer", Broken())
    return preprocess


MACHINE = [
    MemoryError(),
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    OSError(errno.EIO, os.strerror(errno.EIO)),
    OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    OSError("out of memory when reading image file"),  # Pillow's
    RuntimeError("Error opening it: Internal malloc () failed."),  # libsndfile's
]
MODALITIES = pytest.mark.parametrize("modality", ["image", "text", "audio", "resampling"])


@MODALITIES
@pytest.mark.parametrize("failure", MACHINE, ids=repr)
def test_a_fault_of_the_machine_is_no_records(monkeypatch, modality, failure):
    preprocess = break_one(monkeypatch, modality, failure)
    with pytest.raises(type(failure)):
        preprocess(records_table(ROWS))


@MODALITIES
@pytest.mark.parametrize(
    "failure",
    [
        ZeroDivisionError("float division"),
        LibraryError("odd"),
        PanicException("index"),
        KeyError("x"),
        OSError("cut"),
    ],
    ids=repr,
)
def test_whatever_else_a_library_raises_is_the_records_and_is_named(monkeypatch, modality, failure):
    preprocess = break_one(monkeypatch, modality, failure)
    first, second = preprocess(records_table(ROWS))["error"].to_pylist()
    assert first["stage"] == "preprocess"
    assert type(failure).__name__ in first["reason"]
    assert (second is None) == (modality != "text")


def test_a_text_that_the_tokenizer_refuses_costs_no_other_of_its_table():
    preprocess = Preprocessor(SPEC, small_tokenizer())
    real = preprocess._tokenize._tokenizer

    class Picky:
        def encode_batch(self, texts):
            if any("dog" in text for text in texts):
                raise LibraryError("no dogs")
            return real.encode_batch(texts)

    preprocess._tokenize._tokenizer = Picky()
    words = (b"a cat", b"a dog", b"red", b"blue dog")
    found = preprocess(records_table([{"text": word} for word in words]))
    assert [fault and fault["type"] for fault in found["error"].to_pylist()] == [
        None,
        "text-untokenizable",
        None,
        "text-untokenizable",
    ]
    assert found["input_ids"].is_valid().to_pylist() == [True, False, True, False]


def test_whoever_ends_the_process_is_heard():
    with pytest.raises(KeyboardInterrupt), about_record("cannot", "kind"):
        raise KeyboardInterrupt


def test_addresses_of_our_buffers_are_not_told():
    with pytest.raises(RecordError) as e, about_record("cannot read", "kind"):
        raise LibraryError("cannot read <_io.BytesIO object at 0x7f1234567890>: cut")
    assert e.value.reason == "cannot read: LibraryError: cannot read its bytes: cut"


def test_a_cut_picture_is_not_the_machines_fault():
    assert not of_machine(OSError("image file is truncated (3 bytes not processed)"))
    assert not of_machine(ValueError("a record about malloc"))
