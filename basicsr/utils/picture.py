"""A photo with what a person wants back: colours as they were meant (ICC profile), transparency, depth, gray as gray.

PNG, JPEG, WebP, TIFF and BMP in, 8 or 16 bit, gray, alpha, palette, CMYK, EXIF rotation applied. 16 bit out where the
photo had them and the format has.

Shapes: H, W photo.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import threading
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageCms, ImageOps

from basicsr.utils.deep_picture import DEEP_KINDS, DEEP_STEP, DeepImage, encode_deep, read_deep
from basicsr.utils.errors import ImageFileError
from basicsr.utils.img_util import Image, decode, read_bytes

logger = logging.getLogger(__name__)

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
COLOURS_OF_PROFILE = slice(16, 20)  # of an ICC profile's bytes: what its colours are
WITH_PAGES = ("PNG", "WEBP", "TIFF")  # JPEG has previews in their place


class Picture(NamedTuple):
    """A photo, as it is read or is to be written."""

    image: Image  # uint8 BGR (H, W, 3)
    alpha: Image | None = None  # (H, W), 255 opaque
    icc: bytes | None = None  # profile of the colours in `image`
    is_gray: bool = False
    deep: DeepImage | None = None  # the image in 16 bit (H, W, 3); of a file that has fewer: None


def read_picture(path: str | Path, deep: bool = False) -> Picture:
    """Read a photo with its extras; see `basicsr.utils.img_util.imread` for the pixels and the errors.

    CMYK becomes sRGB, by its profile where it has one.

    Args:
        deep: keep the 16 bit of a file that has them, beside the 8.
    """
    data = read_bytes(path)
    image = decode(data, str(path))
    extras = _extras(data, image.shape[:2], str(path))
    if extras.pixels is not None:
        image, deep = extras.pixels, False
    return Picture(image, extras.alpha, extras.icc, shows_no_colour(image), read_deep(data) if deep else None)


def shows_no_colour(image: Image | DeepImage) -> bool:
    """Whether a BGR picture is gray in all but file format. Sepia is a colour."""
    few = (image[::2, ::2] if min(image.shape[:2]) > 64 else image).astype(np.int32)
    of_255 = 255 / np.iinfo(image.dtype).max
    return max(float(np.abs(few[..., i] - few[..., 1]).mean()) for i in (0, 2)) * of_255 < GRAY_DIFFERENCE


def write_picture(path: str | Path, picture: Picture, quality: int = 95) -> None:
    """Write under a temporary name, then rename: a picture on disk is always whole.

    Alpha goes into formats that have it, and so do 16 bit. A profile goes along where it is one of the colours that are
    written: gray is written with three channels where its profile is one of colours.

    Args:
        quality: of JPEG and WebP, 1..100.
    Raises:
        ImageFileError: it cannot be encoded or written.
    """
    path = Path(path)
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ImageFileError(f"{path}: cannot be written as '{path.suffix}'; known are {', '.join(FORMATS)}.")
    temporary = path.with_name(f".{os.getpid()}.{threading.get_ident()}.tmp")  # short: the file's own name may not be
    try:
        data = _encoded(picture, kind, quality)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError):  # a folder that takes no file may not let one be removed either
            temporary.unlink()
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ImageFileError(f"{path}: cannot be written ({reason}).") from error


def _encoded(picture: Picture, kind: str, quality: int) -> bytes:
    """The file's bytes; OSError or ValueError where it cannot be encoded."""
    alpha = picture.alpha if kind in WITH_ALPHA else None
    deep = picture.deep if kind in DEEP_KINDS else None
    image: NDArray[Any] = picture.image if deep is None else deep
    colours = None if picture.icc is None or kind == "BMP" else picture.icc[COLOURS_OF_PROFILE]
    # no WebP is gray, and OpenCV, which writes 16 bit, has no gray with alpha
    one_channel = picture.is_gray and kind != "WEBP" and colours != b"RGB " and (deep is None or alpha is None)
    icc = picture.icc if colours == (b"GRAY" if one_channel else b"RGB ") else None
    channels: list[NDArray[Any]] = [image[..., 1:2] if one_channel else image]  # (H, W, 1) or (H, W, 3)
    if alpha is not None:
        channels.append((alpha if deep is None else alpha.astype(np.uint16) * DEEP_STEP)[..., None])
    pixels = np.concatenate(channels, -1)
    if deep is not None:
        return encode_deep(pixels, kind, icc)
    if not one_channel:
        pixels[..., :3] = pixels[..., 2::-1]  # Pillow speaks RGB
    options = dict(OPTIONS.get(kind, {"quality": quality})) | ({} if icc is None else {"icc_profile": icc})
    file = io.BytesIO()
    PillowImage.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, kind, **options)
    return file.getvalue()


class Extras(NamedTuple):
    """What Pillow says of a photo beside the pixels, upright as they are."""

    alpha: Image | None = None  # (H, W) where something is transparent
    icc: bytes | None = None
    pixels: Image | None = None  # BGR (H, W, 3) of CMYK with a profile


def _extras(data: bytes, size: tuple[int, ...], name: str) -> Extras:
    """What OpenCV leaves out of a photo of `size` (H, W)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on metadata that is odd: the pixels are read by another library
            with PillowImage.open(io.BytesIO(data)) as opened:
                num_pictures = getattr(opened, "n_frames", 1) if opened.format in WITH_PAGES else 1
                if num_pictures > 1:
                    logger.warning("%s: %d pictures in this file, the first is restored", name, num_pictures)
                icc = opened.info.get("icc_profile")
                if opened.mode == "CMYK":
                    return Extras(pixels=None if icc is None else _from_cmyk(opened, icc, name))
                has_alpha = "A" in opened.getbands() or "transparency" in opened.info
                alpha = ImageOps.exif_transpose(opened).convert("RGBA").getchannel("A") if has_alpha else None
    except (OSError, ValueError, SyntaxError):
        return Extras()  # a variant that Pillow does not know; its pixels could be read
    if alpha is None or alpha.size != (size[1], size[0]):
        return Extras(icc=icc)
    pixels = np.asarray(alpha, np.uint8)
    return Extras(None if pixels.min() == 255 else pixels, icc)


def _from_cmyk(opened: PillowImage.Image, icc: bytes, name: str) -> Image | None:
    """A CMYK photo in sRGB, BGR (H, W, 3); None where its profile cannot be used, which is said."""
    try:
        printed = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        rgb = ImageCms.profileToProfile(
            ImageOps.exif_transpose(opened), printed, ImageCms.createProfile("sRGB"), outputMode="RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC, flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )  # fmt: skip
    except (ImageCms.PyCMSError, OSError) as error:
        logger.warning("%s: its CMYK profile cannot be used (%s), the colours are a guess", name, error)
        return None
    return None if rgb is None else np.ascontiguousarray(np.asarray(rgb, np.uint8)[..., ::-1])
