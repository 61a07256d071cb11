"""What a file is that was to be a graph, weights or a tokenizer: by its first bytes, where it is another.

What was fetched is often not the file: a pointer of Git LFS, a web page that asks for a login, half of it.
"""

from __future__ import annotations

from pathlib import Path

from mmray.errors import ModelError

_HEAD = 512  # bytes that tell
_EXPORT = "load the model where it comes from, and export it by torch.onnx.export or tf2onnx"

#: What never is the file, whatever was to be there.
_PLACEHOLDERS = {
    b"version https://git-lfs.github.com/": "a pointer of Git LFS, not the file; fetch it by `git lfs pull`",
    **dict.fromkeys(
        (b"<!doctype html", b"<html"),
        "a web page, not the file; fetch the file itself (on a hub its address has /resolve/, not /blob/)",
    ),
    **dict.fromkeys((b"<?xml", b"<error"), "XML, as a store sends in the place of a file; fetch it again"),
    b"salted__": "encrypted; decrypt it first",
    b"age-encryption.org/": "encrypted; decrypt it first",
    b"-----begin pgp": "encrypted; decrypt it first",
}
#: What is often named .onnx: where its mark lies, the mark, what it is.
_OTHERS = (
    (0, b"PK\x03\x04", f"a zip archive, as torch.save and Keras write them; {_EXPORT}"),
    *((0, b"\x80" + bytes([n]), f"a pickle, as torch.save wrote them; {_EXPORT}") for n in range(2, 6)),
    (4, b"TFL3", "a TensorFlow Lite model; convert it by tf2onnx"),
    (4, b"ORTM", "in ONNX Runtime's own format (.ort); give the .onnx file that it was made of"),
    (0, b"ptrt", "a TensorRT engine, which fits one device; give the .onnx file that it was built of"),
    (0, b"ftrt", "a TensorRT engine, which fits one device; give the .onnx file that it was built of"),
    (0, b"\x89HDF\r\n", "an HDF5 file, as Keras writes them; convert the model by tf2onnx"),
    (0, b"GGUF", f"a GGUF file; {_EXPORT}"),
    (0, b"\x93NUMPY", "a NumPy array, weights without a graph"),
    (0, b"{", "JSON"),
    (0, b"\x1f\x8b", "compressed with gzip; unpack it"),
    (0, b"BZh", "compressed with bzip2; unpack it"),
    (0, b"\xfd7zXZ", "compressed with xz; unpack it"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it"),
    (0, b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (257, b"ustar", "a tar archive; unpack it"),
)


def check_fetched(path: Path) -> bytes:
    """Its first bytes, where it may be the file.

    Raises:
        ModelError: it is not there, empty, a directory, or what stands in the place of a file.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except IsADirectoryError as e:
        raise ModelError(f"{path}: is a directory; name the file in it") from e
    except OSError as e:
        raise ModelError(f"{path}: cannot be read: {e.strerror or e}") from e
    if not head:
        raise ModelError(f"{path}: is empty; fetch it again, or export it again")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if what := next((what for mark, what in _PLACEHOLDERS.items() if start.startswith(mark)), None):
        raise ModelError(f"{path}: is {what}")
    return head


def check_graph_file(path: Path) -> None:
    """Refuse what cannot be an ONNX file.

    Raises:
        ModelError: says what it is.
    """
    head = check_fetched(path)
    what = next((what for at, mark, what in _OTHERS if head[at : at + len(mark)] == mark), None)
    # Of safetensors: the length of a JSON header, then it.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        what = f"a safetensors file, weights without a graph; {_EXPORT}"
    if what:
        raise ModelError(f"{path}: not an ONNX file: it is {what}")
