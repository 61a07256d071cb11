"""Detects files that are not a graph, weights or a tokenizer, by their first bytes.

Downloads are often something else: a Git LFS pointer, a login page, an incomplete file.
"""

from __future__ import annotations

from pathlib import Path

from mmray.errors import ModelError

_HEAD = 512  # bytes that are examined
_EXPORT = "load the model in its framework and export it with torch.onnx.export or tf2onnx"

#: Contents that are never the wanted file.
_PLACEHOLDERS = {
    b"version https://git-lfs.github.com/": "a Git LFS pointer, not the file; run `git lfs pull`",
    **dict.fromkeys(
        (b"<!doctype html", b"<html"),
        "a web page, not the file; download the file itself (a hub's URL has /resolve/, not /blob/)",
    ),
    **dict.fromkeys((b"<?xml", b"<error"), "XML, probably an error page of a store; download the file again"),
    b"salted__": "encrypted; decrypt it first",
    b"age-encryption.org/": "encrypted; decrypt it first",
    b"-----begin pgp": "encrypted; decrypt it first",
}
#: Files that are often named .onnx: offset of the signature, the signature, the description.
_OTHERS = (
    (0, b"PK\x03\x04", f"a zip archive, as torch.save and Keras write them; {_EXPORT}"),
    *((0, b"\x80" + bytes([n]), f"a pickle, as torch.save wrote them; {_EXPORT}") for n in range(2, 6)),
    (4, b"TFL3", "a TensorFlow Lite model; convert it by tf2onnx"),
    (4, b"ORTM", "in ONNX Runtime's own format (.ort); give the .onnx file that it was made from"),
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
    """The first bytes of a file that may be the wanted one.

    Raises:
        ModelError: it is missing, empty, a directory, or something else in place of a file.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except IsADirectoryError as e:
        raise ModelError(f"{path}: is a directory; give the file in it") from e
    except OSError as e:
        raise ModelError(f"{path}: cannot be read: {e.strerror or e}") from e
    if not head:
        raise ModelError(f"{path}: is empty; download or export it again")
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
    # Safetensors: the length of a JSON header, then the header.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        what = f"a safetensors file, weights without a graph; {_EXPORT}"
    if what:
        raise ModelError(f"{path}: not an ONNX file: it is {what}")
