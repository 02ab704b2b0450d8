"""A photo with what a person wants back: colours as they were meant (ICC profile), transparency, gray as gray.

PNG, JPEG, WebP, TIFF and BMP in, 8 or 16 bit, gray, alpha, palette, CMYK, EXIF rotation applied. 8 bit out.

Shapes: H, W photo.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageOps

from basicsr.utils.errors import ImageFileError
from basicsr.utils.img_util import Image, decode

GRAY_DIFFERENCE = 1.0  # of 255: mean difference of two channels below which a colour file shows no colour
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {"compress_level": 3},  # twice as fast as the usual 6, a few per cent larger
    "TIFF": {"compression": "tiff_lzw"},
    "BMP": {},
}
WITH_ALPHA = ("PNG", "WEBP", "TIFF")


class Picture(NamedTuple):
    """A decoded photo."""

    image: Image  # uint8 BGR (H, W, 3)
    alpha: Image | None = None  # (H, W), 255 opaque
    icc: bytes | None = None  # profile of the colours in `image`
    is_gray: bool = False


def read_picture(path: str | Path) -> Picture:
    """Read a photo with its extras; see `basicsr.utils.img_util.imread` for the pixels and the errors."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageFileError(f"{path}: cannot be read ({error.strerror}).") from error
    image = decode(data, str(path))
    alpha, icc = _extras(data, image.shape[:2])
    return Picture(image, alpha, icc, shows_no_colour(image))


def shows_no_colour(image: Image) -> bool:
    """Whether a BGR picture is gray in all but file format. Sepia is a colour."""
    few = image[::2, ::2].astype(np.int16) if min(image.shape[:2]) > 64 else image.astype(np.int16)
    return max(float(np.abs(few[..., i] - few[..., 1]).mean()) for i in (0, 2)) < GRAY_DIFFERENCE


def write_picture(path: str | Path, picture: Picture, quality: int = 95) -> None:
    """Write under a temporary name, then rename: a picture on disk is always whole.

    Alpha goes into formats that have it. A profile goes along where it is one of the colours that are written.

    Args:
        quality: of JPEG and WebP, 1..100.
    Raises:
        ImageFileError: it cannot be encoded or written.
    """
    path = Path(path)
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ImageFileError(f"{path}: cannot be written as '{path.suffix}'; known are {', '.join(FORMATS)}.")
    channels = [picture.image[..., 1]] if picture.is_gray else [picture.image[..., i] for i in (2, 1, 0)]
    if picture.alpha is not None and kind in WITH_ALPHA:
        channels = [*(channels * 3 if picture.is_gray and kind == "WEBP" else channels), picture.alpha]
    pixels = channels[0] if len(channels) == 1 else np.dstack(channels)
    options = dict(OPTIONS.get(kind, {"quality": quality}))
    wanted = b"GRAY" if picture.is_gray and kind != "WEBP" else b"RGB "
    if picture.icc is not None and picture.icc[16:20] == wanted and kind != "BMP":
        options["icc_profile"] = picture.icc
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        PillowImage.fromarray(np.ascontiguousarray(pixels)).save(temporary, kind, **options)
        os.replace(temporary, path)
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError):  # a folder that takes no file may not let one be removed either
            temporary.unlink()
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ImageFileError(f"{path}: cannot be written ({reason}).") from error


def _extras(data: bytes, size: tuple[int, ...]) -> tuple[Image | None, bytes | None]:
    """Alpha (H, W) where something is transparent, and the ICC profile; upright as the pixels are."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on metadata that is odd: the pixels are read by another library
            with PillowImage.open(io.BytesIO(data)) as opened:
                icc = opened.info.get("icc_profile")
                has_alpha = "A" in opened.getbands() or "transparency" in opened.info
                alpha = ImageOps.exif_transpose(opened).convert("RGBA").getchannel("A") if has_alpha else None
    except (OSError, ValueError, SyntaxError):
        return None, None  # a variant that Pillow does not know; its pixels could be read
    if alpha is None or alpha.size != (size[1], size[0]):
        return None, icc
    pixels = np.asarray(alpha, np.uint8)
    return (None if pixels.min() == 255 else pixels), icc
