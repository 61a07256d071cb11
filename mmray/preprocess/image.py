"""Bytes of one image → uint8 RGB array of the spec's size. Refuses what is too large before decoding it."""

from __future__ import annotations

import io
import warnings

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from mmray.errors import RecordError, about_record
from mmray.magic import what_is
from mmray.preprocess.declared import check_tiff, iso_size, webp_size
from mmray.preprocess.jpeg import closed_jpeg
from mmray.preprocess.png import bare_png
from mmray.preprocess.resize import resize
from mmray.preprocess.spec import ImageSpec

# Only formats of records: every other Pillow plug-in is only attack surface.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_NAMES = (*FORMATS, "HEIC")

# Pillow refuses images of more than twice its own limit, and warns about images that we refuse ourselves. Its
# warnings on odd tags, which do not affect pixels, would be a line for each such image.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

# Total text of a PNG, decompressed: hundreds of small chunks would each be within Pillow's limit for one.
PngImagePlugin.MAX_TEXT_MEMORY = 4 << 20

# For a WebP, two canvases, the decoded bytes and Pillow's copy are in memory at once, and for an AVIF also
# all planes; for other formats two of these. A WebP of 5,000 x 5,000 pixels, in 34 bytes, took 390 MB.
_WEIGHT = 2

# Each scan of a progressive JPEG processes all pixels but needs only 75 bytes; ten scans are usual.
_MAX_SCANS = 100
_JPEG, _SCAN = b"\xff\xd8", b"\xff\xda"
_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_AVIF = (b"avif", b"avis")
_HEIF = (*(b"hei" + c for c in (b"c", b"x", b"m", b"s")), *(b"hev" + c for c in (b"c", b"x", b"m", b"s")))
_MAGIC = (_JPEG, _PNG, b"GIF8", b"RIFF", b"BM", *_TIFF)
_BLANK = b"\r\n\t \0"

_UNDECODABLE = ("cannot decode the image", "image-undecodable")


def decode_image(data: bytes, spec: ImageSpec, max_pixels: int) -> npt.NDArray[np.uint8]:
    """Decode, orient by EXIF, flatten transparency, resize and pad or crop.

    Args:
        data: an encoded image (JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF; HEIC with the extra `media`),
            detected by its bytes; its first frame or page is used.
        spec: size and fit.
        max_pixels: refuse larger images; checked on the header, before anything is allocated for them.
            Those of a WebP or AVIF count twice, because decoding takes more memory.

    Returns:
        uint8 [spec.height, spec.width, 3].

    Raises:
        RecordError: empty, unreadable, truncated, too large, or a JPEG of too many scans; or not an image,
            then the reason says what it is.
    """
    if not data:
        raise RecordError("the image member is empty", "image-empty")
    if data[0] in _BLANK and (bare := data.lstrip(_BLANK)).startswith(_MAGIC):
        data = bare  # a script printed an extra empty line
    formats = _checked(data, max_pixels)
    # This also limits what Pillow allocates on opening a file: a GIF of 43 bytes had a frame of 3.5 GB.
    Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        upright = _decoded(data, formats, spec, max_pixels)
    except RecordError as e:
        # Pixels may be intact even if the rest is not: text of megabytes, a profile, a checksum, the end.
        with about_record(*_UNDECODABLE):
            mended = _mended(data) if e.kind == "image-undecodable" else None
        if mended is None:
            raise
        upright = _decoded(mended, formats, spec, max_pixels)
    return _place(upright, spec)


def _mended(data: bytes) -> bytes | None:
    if data.startswith(_PNG):
        return bare_png(data)
    return closed_jpeg(data) if data.startswith(_JPEG) else None


def _checked(data: bytes, max_pixels: int) -> tuple[str, ...]:
    """Pillow's formats to try, after checking the sizes that it would check too late."""
    size = webp_size(data)
    formats: tuple[str, ...] = FORMATS
    if data[4:8] == b"ftyp":
        brands = [data[8:12], *(data[i : i + 4] for i in range(16, min(int.from_bytes(data[:4]), 256), 4))]
        if any(brand in _HEIF for brand in brands) and not any(brand in _AVIF for brand in brands):
            allow_heic()
            formats = ("HEIF",)
        if formats == ("HEIF",) or any(brand in _AVIF for brand in brands):
            size = iso_size(data)
    elif data.startswith(_TIFF):
        check_tiff(data, max_pixels)
    elif data.startswith(_JPEG) and data.count(_SCAN) > _MAX_SCANS:
        raise RecordError(f"a JPEG of more than {_MAX_SCANS} scans", "image-too-complex")
    weight = 1 if formats == ("HEIF",) else _WEIGHT
    if size and weight * size[0] * size[1] > max_pixels:
        name = "WebP" if data.startswith(b"RIFF") else "AVIF"
        why = f" (each pixel of a {name} counts {weight} times)" if weight > 1 else ""
        raise _too_large(size, max_pixels, why)
    return formats


def allow_heic() -> None:
    """Let Pillow read HEIC: only the picture, not thumbnails, depth maps and the like.

    Raises:
        RecordError: the package for it is not installed.
    """
    if "HEIF" in Image.OPEN:
        return
    try:
        import pillow_heif
    except ImportError as e:
        reason = "an HEIC picture, which needs the package pillow-heif: pip install 'mmray[media]'"
        raise RecordError(reason, "image-needs-extra") from e
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)


def _decoded(data: bytes, formats: tuple[str, ...], spec: ImageSpec, max_pixels: int) -> Image.Image:
    """The upright picture in RGB, or in RGBA if it has transparency."""
    with _opened(data, formats, max_pixels) as image:
        if image.width * image.height > max_pixels:
            raise _too_large(image.size, max_pixels)
        with about_record(*_UNDECODABLE):
            if image.format == "JPEG":
                # Decode at 1/2, 1/4 or 1/8 scale if that still covers the target.
                image.draft("RGB", _stored_size(image, spec))
            return _flatten_modes(ImageOps.exif_transpose(image))


def _opened(data: bytes, formats: tuple[str, ...], max_pixels: int) -> Image.Image:
    with about_record(*_UNDECODABLE):
        try:
            return Image.open(io.BytesIO(data), formats=formats)
        except Image.DecompressionBombError as e:
            raise _too_large(None, max_pixels) from e
        except UnidentifiedImageError as e:  # its message is the address of our buffer
            reason = (
                f"not an image of type {', '.join(_NAMES)}, or its header is damaged: it is {what_is(data)}"
            )
            raise RecordError(reason, "image-undecodable") from e


def _too_large(size: tuple[int, int] | None, max_pixels: int, why: str = "") -> RecordError:
    pixels = f"{size[0]}x{size[1]} pixels" if size else "pixels"
    return RecordError(f"{pixels}, more than limits.image_pixels={max_pixels}{why}", "image-too-large")


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
    """Any Pillow mode → RGB, or RGBA if it has transparency."""
    if image.mode == "RGBA" or (image.mode == "RGB" and "transparency" not in image.info):
        return image
    if image.mode in ("I", "F"):
        reason = f"pixels of 32 bits (mode {image.mode}), whose range is unknown: convert it to 8 or 16 bits"
        raise RecordError(reason, "image-unsupported")
    if image.mode.startswith("I"):  # 16-bit grey: keep the high byte, not the clipped low one
        grey = np.array(image, dtype=np.float32)
        clear = image.info.get("transparency")
        alpha = np.where(grey == clear, np.uint8(0), np.uint8(255)) if isinstance(clear, int) else None
        grey /= 257.0  # in place: such an image may be as large as the limit allows
        grey.clip(0, 255, out=grey).round(out=grey)
        rgb = Image.fromarray(grey.astype(np.uint8)).convert("RGB")
        if alpha is not None:
            rgb.putalpha(Image.fromarray(alpha))
        return rgb
    if image.mode in ("LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return image.convert("RGBA")
    return image.convert("RGB")


def _place(image: Image.Image, spec: ImageSpec) -> npt.NDArray[np.uint8]:
    """Resize to fit, composite over the background, pad or crop to the exact size."""
    box, fitted = None, _fitted(image.size, spec)
    if spec.fit == "crop":
        # Only the visible part is resized: a 1 x 50,000 strip would first grow to gigabytes.
        box, fitted = _centre(image.size, spec), (spec.width, spec.height)
    # RGBA is resized with premultiplied alpha, so flattening the small image is both correct and cheap.
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
