"""Files that people really have: odd ones that must be restored, and broken ones with the line they must get."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as PillowImage
from PIL import ImageCms
from restorer_toys import photo_with

PHOTO = photo_with((1, 1))  # one face
FACELESS = "no face found"
UNKNOWN = "no picture in a format|cannot be decoded"


def pillow() -> PillowImage.Image:
    """The photo for Pillow."""
    return PillowImage.fromarray(np.ascontiguousarray(PHOTO[..., ::-1]))


def saved(image: PillowImage.Image, kind: str, **options: object) -> bytes:
    """The file's bytes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def encoded(suffix: str, image: np.ndarray = PHOTO) -> bytes:
    """The file's bytes, by OpenCV."""
    return bytes(cv2.imencode(suffix, image)[1].tobytes())


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds next to nothing."""
    chunks = b""
    for kind, body in ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IEND", b"")):
        chunks += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return b"\x89PNG\r\n\x1a\n" + chunks


def turned() -> bytes:
    """A JPEG that EXIF says to turn by 90 degrees."""
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    return saved(pillow(), "JPEG", exif=exif.tobytes(), quality=95)


def with_profile() -> bytes:
    """A JPEG with an ICC profile."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return saved(pillow(), "JPEG", icc_profile=profile, quality=95)


def with_alpha(mode: str) -> bytes:
    """A PNG whose upper half is transparent."""
    image = pillow().convert(mode)
    alpha = np.full((image.height, image.width), 255, np.uint8)
    alpha[: image.height // 2] = 40
    image.putalpha(PillowImage.fromarray(alpha))
    return saved(image, "PNG")


SIXTEEN = PHOTO.astype(np.uint16) * 257
GOOD: dict[str, Callable[[], bytes]] = {
    "plain.png": lambda: encoded(".png"),
    "plain.jpg": lambda: encoded(".jpg"),
    "plain.jpeg": lambda: encoded(".jpg"),
    "plain.webp": lambda: encoded(".webp"),
    "plain.bmp": lambda: encoded(".bmp"),
    "plain.tif": lambda: encoded(".tiff"),
    "UPPER.PNG": lambda: encoded(".png"),
    "jpeg_called.png": lambda: encoded(".jpg"),
    "progressive.jpg": lambda: saved(pillow(), "JPEG", progressive=True, quality=95),
    "gray.png": lambda: encoded(".png", PHOTO[..., 1]),
    "gray.jpg": lambda: encoded(".jpg", PHOTO[..., 1]),
    "sixteen.png": lambda: encoded(".png", SIXTEEN),
    "sixteen.tiff": lambda: encoded(".tiff", SIXTEEN),
    "gray_sixteen.png": lambda: encoded(".png", SIXTEEN[..., 1]),
    "alpha.png": lambda: with_alpha("RGB"),
    "gray_alpha.png": lambda: with_alpha("L"),
    "palette.png": lambda: saved(pillow().convert("P"), "PNG"),
    "one_bit.png": lambda: saved(pillow().convert("L").point(lambda v: 255 * (v > 128)).convert("1"), "PNG"),
    "cmyk.jpg": lambda: saved(pillow().convert("CMYK"), "JPEG", quality=95),
    "turned.jpg": turned,
    "profile.jpg": with_profile,
    "обличчя 顔 é.png": lambda: encoded(".png"),
    "with  spaces .png": lambda: encoded(".png"),
    "quote's;#%&.png": lambda: encoded(".png"),
    "-w.png": lambda: encoded(".png"),
    f"{'long' * 50}.png": lambda: encoded(".png"),
    "many_faces.png": lambda: encoded(".png", photo_with((0, 0), (2, 0), (0, 2), (2, 2))),
}
BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty.png": (lambda: b"", "the file is empty"),
    "empty.jpg": (lambda: b"", "the file is empty"),
    "text.png": (lambda: b"this is no picture", UNKNOWN),
    "page.jpg": (lambda: b"<html><body>404</body></html>", UNKNOWN),
    "zeros.jpg": (lambda: bytes(5000), UNKNOWN),
    "noise.webp": (lambda: np.random.default_rng(0).bytes(5000), UNKNOWN),
    "carries_code.png": (lambda: pickle.dumps({"a": 1}), UNKNOWN),
    "half.png": (lambda: encoded(".png")[:2000], "cut off"),
    "half.jpg": (lambda: encoded(".jpg")[:1500], "cut off"),
    "half.webp": (lambda: encoded(".webp")[:900], "cut off"),
    "half.bmp": (lambda: encoded(".bmp")[:9000], f"cut off|{UNKNOWN}"),
    "half.tiff": (lambda: encoded(".tiff")[:9000], f"cut off|{UNKNOWN}"),
    "signature.png": (lambda: b"\x89PNG\r\n\x1a\n", "cut off"),
    "start.jpg": (lambda: b"\xff\xd8\xff", "cut off"),
    "hollow.png": (lambda: png_header(64, 64), UNKNOWN),
    "nothing_wide.png": (lambda: png_header(0, 64), UNKNOWN),
    "long_side.png": (lambda: png_header(20_001, 10), "20001x10 pixels; at most 20000 a side"),
    "bomb.png": (lambda: png_header(100_000, 100_000), "too many pixels|at most 20000 a side"),
    "one_pixel.png": (lambda: encoded(".png", np.zeros((1, 1, 3), np.uint8)), FACELESS),
    "one_pixel_high.png": (lambda: encoded(".png", np.zeros((1, 300, 3), np.uint8)), FACELESS),
    "black.png": (lambda: encoded(".png", np.zeros((128, 128, 3), np.uint8)), FACELESS),
    "landscape.jpg": (lambda: encoded(".jpg", photo_with()), FACELESS),
}
BAD_REFERENCES: dict[str, tuple[Callable[[], bytes], str]] = {
    **{name: BAD[name] for name in ("empty.png", "text.png", "half.jpg", "bomb.png")},
    "nobody.png": (lambda: encoded(".png", photo_with()), "no face found in this reference. Give a photo that shows"),
    "couple.png": (lambda: encoded(".png", photo_with((0, 0), (2, 2))), "2 faces in this reference .* Crop it to the"),
}
BAD_WEIGHTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty.pth": (lambda: b"", "cannot be read as weights"),
    "text.pth": (lambda: b"no weights", "cannot be read as weights"),
    "code.pth": (lambda: pickle.dumps({"params": print}), "refused, the file carries Python objects"),
    "page.safetensors": (lambda: b"<html>404</html>", "cannot be read as weights"),
}


def write_all(folder: Path, files: dict[str, bytes]) -> None:
    """The files below a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
