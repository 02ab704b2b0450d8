"""Pictures on disk, arrays and tensors: the only file where value ranges and colour order change.

Files and arrays: uint8 BGR (H, W, 3). In a batch: float32 RGB [-1, 1] (3, H, W).
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from torch import Tensor

from basicsr.utils.errors import ImageFileError
from basicsr.utils.text_util import is_utf8, shown

logger = logging.getLogger(__name__)

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # what cannot be read is said here, once

Image = NDArray[np.uint8]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MAX_SIDE = 20_000  # a picture with a longer side is refused before it is decoded into gigabytes
TAIL_BYTES = 4096  # some writers pad the file after its end marker


def list_images(folder: str | Path, recursive: bool = True) -> list[Path]:
    """Picture files below `folder`, sorted, so that every host sees the same order; others are skipped and counted.

    Raises:
        ImageFileError: `folder` is not a folder, or holds no picture.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageFileError(f"{folder}: no such folder.")
    entries = sorted(path for path in (folder.rglob("*") if recursive else folder.glob("*")) if path.is_file())
    files = [path for path in entries if path.suffix.lower() in IMAGE_SUFFIXES]
    if len(files) < len(entries):
        logger.info("%s: %d pictures, %d other files skipped", folder, len(files), len(entries) - len(files))
    for path in [path for path in files if not is_utf8(str(path.relative_to(folder)))]:
        logger.warning("%s: skipped, the name is not UTF-8. Rename it.", shown(str(path)))
        files.remove(path)
    if not files:
        raise ImageFileError(f"{folder}: no pictures ({', '.join(IMAGE_SUFFIXES)}).")
    return files


def imread(path: str | Path) -> Image:
    """Read a picture as uint8 BGR (H, W, 3): EXIF rotation applied, gray repeated, alpha dropped, 16 bit scaled to 8.

    Raises:
        ImageFileError: missing, empty, truncated, larger than MAX_SIDE, or no picture.
    """
    return decode(read_bytes(path), str(path))


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a file; ImageFileError where they cannot be had."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ImageFileError(f"{path}: cannot be read ({error.strerror}).") from error


def decode(data: bytes, name: str) -> Image:
    """Decode the bytes of a picture file; `name` stands in errors. See `imread`."""
    if not data:
        raise ImageFileError(f"{name}: the file is empty.")
    if _is_truncated(data):
        raise ImageFileError(f"{name}: the picture is cut off. Copy or download it again.")
    _refuse_bomb(data, name)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageFileError(f"{name}: cannot be decoded ({error.err}).") from error
    if image is None:
        raise ImageFileError(
            f"{name}: no picture in a format that is read here ({', '.join(IMAGE_SUFFIXES)}; 8 or 16 bit)."
        )
    return np.asarray(image, np.uint8)


def _refuse_bomb(data: bytes, name: str) -> None:
    """Raise when the header announces a side above MAX_SIDE, before gigabytes are decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on large pictures and odd metadata
            with PillowImage.open(io.BytesIO(data)) as header:
                width, height = header.size
    except PillowImage.DecompressionBombError as error:
        raise ImageFileError(f"{name}: too many pixels to be decoded safely ({error}).") from error
    except OSError:
        return  # a header that Pillow cannot read: OpenCV has the last word on the format
    if max(width, height) > MAX_SIDE:
        raise ImageFileError(f"{name}: {width}x{height} pixels; at most {MAX_SIDE} a side are taken.")


def _is_truncated(data: bytes) -> bool:
    """Whether the end marker of the format is missing. OpenCV fills the rest of such a picture with gray, silently."""
    tail = data[-TAIL_BYTES:]
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in tail
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"IEND" not in tail
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    return False


def imwrite(path: str | Path, image: Image, quality: int = 95) -> None:
    """Write uint8 BGR (H, W, 3) under a temporary name, then rename: a picture on disk is always whole.

    Args:
        quality: of JPEG and WebP, 0..100. PNG is lossless.
    """
    path = Path(path)
    flags = {".jpg": cv2.IMWRITE_JPEG_QUALITY, ".jpeg": cv2.IMWRITE_JPEG_QUALITY, ".webp": cv2.IMWRITE_WEBP_QUALITY}
    flag = flags.get(path.suffix.lower())
    ok, encoded = cv2.imencode(path.suffix, image, [flag, quality] if flag is not None else [])
    if not ok:
        raise ImageFileError(f"{path}: cannot be encoded as '{path.suffix}'.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(encoded.tobytes())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # a folder that takes no file may not let one be removed either
            temporary.unlink()
        raise ImageFileError(f"{path}: cannot be written ({error.strerror}).") from error


def img2tensor(image: Image) -> Tensor:
    """uint8 BGR (H, W, 3) -> float32 RGB [-1, 1] (3, H, W)."""
    rgb = np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1))
    return torch.from_numpy(rgb).float().mul_(2 / 255).sub_(1)


def tensor2img(tensor: Tensor) -> Image:
    """RGB [-1, 1] (3, H, W), clamped and rounded -> uint8 BGR (H, W, 3)."""
    rgb = to_uint8(tensor.detach()).cpu().numpy()
    return np.ascontiguousarray(rgb.transpose(1, 2, 0)[..., ::-1])


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] -> uint8 0..255, clamped and rounded, any shape."""
    return images.float().clamp(-1, 1).add_(1).mul_(127.5).round_().to(torch.uint8)


def quantize(images: Tensor) -> Tensor:
    """[-1, 1] as it comes back after being saved with 8 bits, any shape."""
    return to_uint8(images).float().mul_(2 / 255).sub_(1)
