"""Pictures of 16 bit: read as they are, and written as PNG or TIFF with their ICC profile.

Pillow has no colour of 16 bit and OpenCV writes no profile, so the profile is put into what OpenCV has encoded.

Shapes: H, W photo; C channels.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from basicsr.utils.img_util import Image

DeepImage = NDArray[np.uint16]

DEEP_STEP = 257  # of 16 bit for one of 8: 255 becomes 65 535
DEEP_KINDS = {"PNG": ".png", "TIFF": ".tiff"}  # the formats here that hold 16 bit
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_HEAD_END = 33  # bytes: the signature, and the chunk IHDR, which comes first
TIFF_LITTLE, TIFF_BIG = b"II*\0", b"MM\0*"
TIFF_SHORT, TIFF_UNDEFINED = 3, 7
TIFF_EXTRA_TAG, TIFF_ICC_TAG = 338, 34675
TIFF_ALPHA = 2  # an extra channel that the colours are not multiplied by


def read_deep(data: bytes) -> DeepImage | None:
    """The 16-bit pixels (H, W, 3), BGR and upright, of a whole file's bytes; None where it has fewer."""
    is_png = data.startswith(PNG_SIGNATURE) and data[24:25] == b"\x10"  # the depth of a channel stands in IHDR
    if not is_png and not data.startswith((TIFF_LITTLE, TIFF_BIG)):
        return None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    return np.asarray(image) if image is not None and image.dtype == np.uint16 else None


def to_eight(image: NDArray[Any]) -> Image:
    """uint8 of uint16, rounded; uint8 stays."""
    return np.rint(image / DEEP_STEP).astype(np.uint8) if image.dtype == np.uint16 else np.asarray(image, np.uint8)


def encode_deep(pixels: DeepImage, kind: str, icc: bytes | None) -> bytes:
    """A PNG or TIFF.

    Args:
        pixels: (H, W, C), gray, BGR or BGRA.
        kind: one of DEEP_KINDS.
    Raises:
        ValueError: it cannot be encoded.
    """
    ok, encoded = cv2.imencode(DEEP_KINDS[kind], pixels)
    if not ok:
        raise ValueError(f"16 bit do not go into {kind}")
    data = bytes(encoded.tobytes())
    if kind == "PNG":
        return data if icc is None else png_with_profile(data, icc)
    tags = [] if icc is None else [(TIFF_ICC_TAG, TIFF_UNDEFINED, icc)]
    if pixels.shape[-1] == 4:  # OpenCV does not say what the fourth channel is
        order = "<" if data.startswith(TIFF_LITTLE) else ">"
        tags.append((TIFF_EXTRA_TAG, TIFF_SHORT, struct.pack(f"{order}H", TIFF_ALPHA)))
    return tiff_with_tags(data, tags)


def png_with_profile(data: bytes, icc: bytes) -> bytes:
    """A PNG with the chunk iCCP (PNG specification, 11.3.2.3), which must come before the pixels."""
    body = b"iCCP" + b"ICC profile\0\0" + zlib.compress(icc)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data[:PNG_HEAD_END] + chunk + data[PNG_HEAD_END:]


def tiff_with_tags(data: bytes, tags: Sequence[tuple[int, int, bytes]]) -> bytes:
    """A TIFF whose first directory has more tags: written anew at the end, where there is room.

    Args:
        tags: number, type (TIFF_SHORT or TIFF_UNDEFINED) and value of each, in the byte order of the file.
    """
    order = "<" if data.startswith(TIFF_LITTLE) else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    entries = [data[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(count)]
    following = data[start + 2 + 12 * count : start + 6 + 12 * count]
    data += bytes(len(data) % 2)  # places are even
    present = {struct.unpack_from(f"{order}H", entry)[0] for entry in entries}
    for tag, kind, value in [tag for tag in tags if tag[0] not in present]:
        num = len(value) // (2 if kind == TIFF_SHORT else 1)
        place = value.ljust(4, b"\0")  # what fits into an entry stands there
        if len(value) > 4:
            place = struct.pack(f"{order}I", len(data))
            data += value + bytes(len(value) % 2)
        entries.append(struct.pack(f"{order}HHI", tag, kind, num) + place)
    entries.sort(key=lambda entry: int(struct.unpack_from(f"{order}H", entry)[0]))
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries) + following
    return data[:4] + struct.pack(f"{order}I", len(data)) + data[8:] + directory
