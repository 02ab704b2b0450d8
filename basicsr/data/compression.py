"""Lossy compression: one JPEG, and what many generations of a video codec leave behind.

The second is no codec: H.264 by way of a library gives other bits with each of its versions, and a degradation has to
be repeatable. What a low bit rate is known by is kept: blocks, coarse colours (4:2:0), ringing, and errors that pile up
from frame to frame while motion compensation moves the block edges off their grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from basicsr.utils.img_util import Image

BLOCK = 16  # px: a macroblock; JPEG with 4:2:0 has the same


def jpeg_round_trip(image: Image, quality: int) -> Image:
    """Through a JPEG file of that quality (0..100) and back, uint8 BGR."""
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)


@dataclass(frozen=True)
class VideoCompression:
    """JPEG again and again, each time with the blocks at another place."""

    quality: int  # 0..100, of each generation
    offsets: tuple[tuple[int, int], ...]  # x, y in px, 0..BLOCK - 1: where the blocks lie, for each generation

    def apply(self, image: Image) -> Image:
        """uint8 BGR (H, W, 3) to the same."""
        height, width = image.shape[:2]
        for x, y in self.offsets:
            shifted = cv2.copyMakeBorder(image, y, 0, x, 0, cv2.BORDER_REPLICATE)
            image = jpeg_round_trip(np.asarray(shifted, np.uint8), self.quality)[y : y + height, x : x + width]
        return image


def sample_video_compression(
    rng: np.random.Generator, quality_range: tuple[float, float], generations: tuple[int, int]
) -> VideoCompression:
    """Draw one; quality and the number of generations uniform, both ends included for the latter."""
    quality = int(rng.uniform(*quality_range))
    count = int(rng.integers(generations[0], generations[1] + 1))
    offsets = rng.integers(BLOCK, size=(count, 2))
    return VideoCompression(quality, tuple((int(x), int(y)) for x, y in offsets))
