"""Bytes of one image → uint8 RGB array of the spec's size. Refuses what is too large before decoding it."""

from __future__ import annotations

import io
import warnings
from struct import unpack_from

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from mmray.errors import RecordError, about_record
from mmray.preprocess.resize import resize
from mmray.preprocess.spec import ImageSpec

# Only formats that records come in: every other Pillow plug-in is attack surface.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")

# Pillow refuses what is more than twice its own bound, and warns of what we refuse by ourselves.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# Of a WebP two canvases, the decoded bytes and Pillow's copy are in memory at once; of others two of these.
# Of 5,000 x 5,000 pixels, in 34 bytes, they were 390 MB.
_WEBP_WEIGHT = 2

# Each scan of a progressive JPEG passes over all pixels and takes as few as 75 bytes; ten of them are usual.
_MAX_SCANS = 100
_SCAN = b"\xff\xda"

_UNDECODABLE = ("cannot decode the image", "image-undecodable")


def decode_image(data: bytes, spec: ImageSpec, max_pixels: int) -> npt.NDArray[np.uint8]:
    """Decode, orient by EXIF, flatten transparency, resize and pad or crop.

    Args:
        data: an encoded image (JPEG, PNG, WebP, GIF or BMP; the first frame counts).
        spec: size and fit.
        max_pixels: refuse larger images; checked on the header, before anything is allocated for them.
            Those of a WebP count twice: decoding it takes so much more memory.

    Returns:
        uint8 [spec.height, spec.width, 3].

    Raises:
        RecordError: empty, unreadable, truncated, too large, or a JPEG of too many scans.
    """
    if not data:
        raise RecordError("the image member is empty", "image-empty")
    if (size := _webp_size(data)) and _WEBP_WEIGHT * size[0] * size[1] > max_pixels:
        raise _too_large(size, max_pixels, f" (each pixel of a WebP counts {_WEBP_WEIGHT} times)")
    # Also what Pillow allocates as it opens a file is bounded by it: a GIF of 43 bytes had a frame of 3.5 GB.
    Image.MAX_IMAGE_PIXELS = max_pixels
    image = _opened(data, max_pixels)
    with image:
        if image.width * image.height > max_pixels:
            raise _too_large(image.size, max_pixels)
        if data.startswith(b"\xff\xd8") and data.count(_SCAN) > _MAX_SCANS:
            raise RecordError(f"a JPEG of more than {_MAX_SCANS} scans", "image-too-complex")
        with about_record(*_UNDECODABLE):
            # JPEG only: decode at 1/2, 1/4 or 1/8 scale where that still covers the target.
            image.draft("RGB", _stored_size(image, spec))
            upright = _flatten_modes(ImageOps.exif_transpose(image))
    return _place(upright, spec)


def _opened(data: bytes, max_pixels: int) -> Image.Image:
    with about_record(*_UNDECODABLE):
        try:
            return Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.DecompressionBombError as e:
            raise _too_large(None, max_pixels) from e
        except UnidentifiedImageError as e:  # its message is the address of our buffer
            raise RecordError(f"not an image of type {', '.join(FORMATS)}", "image-undecodable") from e


def _too_large(size: tuple[int, int] | None, max_pixels: int, why: str = "") -> RecordError:
    pixels = f"{size[0]}x{size[1]} pixels" if size else "pixels"
    return RecordError(f"{pixels}, more than limits.image_pixels={max_pixels}{why}", "image-too-large")


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of the canvas that is made as soon as Pillow opens a WebP; None of others."""
    if len(data) < 30 or not data.startswith(b"RIFF") or data[8:12] != b"WEBP":
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        both = int.from_bytes(data[24:30], "little")
        return (both & 0xFFFFFF) + 1, (both >> 24) + 1
    if kind == b"VP8L":
        (both,) = unpack_from("<I", data, 21)
        return (both & 0x3FFF) + 1, (both >> 14 & 0x3FFF) + 1
    width, height = unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _fitted(size: tuple[int, int], spec: ImageSpec) -> tuple[int, int]:
    """Size (width, height) of the whole image when it fits inside (pad), covers (crop) or is the target."""
    if spec.fit == "stretch":
        return spec.width, spec.height
    ratios = (spec.width / size[0], spec.height / size[1])
    scale = min(ratios) if spec.fit == "pad" else max(ratios)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _stored_size(image: Image.Image, spec: ImageSpec) -> tuple[int, int]:
    """Size (width, height) to decode at: that of `_fitted`, turned as the file stores it."""
    if image.getexif().get(ExifTags.Base.Orientation) not in (5, 6, 7, 8):
        return _fitted(image.size, spec)
    width, height = _fitted((image.height, image.width), spec)
    return height, width


def _flatten_modes(image: Image.Image) -> Image.Image:
    """Any Pillow mode → RGB, or RGBA where there is transparency."""
    if image.mode == "RGBA" or (image.mode == "RGB" and "transparency" not in image.info):
        return image
    if (
        image.mode.startswith("I") or image.mode == "F"
    ):  # 16-bit grey: keep the high byte, not the clipped low one
        grey = np.array(image, dtype=np.float32)
        grey /= 257.0  # in place: such an image may be as large as the limit allows
        grey.clip(0, 255, out=grey).round(out=grey)
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode in ("LA", "PA", "La") or "transparency" in image.info:
        return image.convert("RGBA")
    return image.convert("RGB")


def _place(image: Image.Image, spec: ImageSpec) -> npt.NDArray[np.uint8]:
    """Resize to fit, composite over the background, pad or crop to the exact size."""
    box, fitted = None, _fitted(image.size, spec)
    if spec.fit == "crop":
        # Only the part that stays is resized: a 1 x 50,000 strip would grow to gigabytes first.
        box, fitted = _centre(image.size, spec), (spec.width, spec.height)
    # RGBA is resized with premultiplied alpha, so flattening the small image is both right and cheap.
    small = resize(image, fitted, box)
    canvas = Image.new("RGB", (spec.width, spec.height), spec.background)
    corner = ((spec.width - fitted[0]) // 2, (spec.height - fitted[1]) // 2)
    canvas.paste(small, corner, small if small.mode == "RGBA" else None)
    return np.asarray(canvas)


def _centre(size: tuple[int, int], spec: ImageSpec) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the largest centred box with the target's proportions."""
    scale = max(spec.width / size[0], spec.height / size[1])
    # Rounding must not push an edge out of the image.
    left = max(0.0, (size[0] - spec.width / scale) / 2)
    top = max(0.0, (size[1] - spec.height / scale) / 2)
    return left, top, size[0] - left, size[1] - top
