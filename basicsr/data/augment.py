"""Mirroring and colour changes: drawn first, applied second.

Pictures: uint8 BGR (H, W, 3) or float32 BGR [0, 1] (H, W, 3), as each function says.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from basicsr.data.blur_kernels import FloatImage
from basicsr.utils.img_util import Image

Range = tuple[float, float]

HUE_CIRCLE = 360.0  # degrees; OpenCV's float HSV


def flip(image: Image) -> Image:
    """Mirrored left to right, a copy."""
    return np.ascontiguousarray(image[:, ::-1])


def luminance(image: FloatImage) -> NDArray[np.float32]:
    """(H, W, 3) BGR -> (H, W, 1); weights .114, .587, .299 (ITU-R BT.601)."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.float32)[..., None]


def to_gray(image: FloatImage) -> FloatImage:
    """The luminance in all three channels."""
    return np.repeat(luminance(image), 3, axis=2)


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast, saturation and hue, one after the other. Equations: torchvision's `adjust_*`."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0  # of the circle, -0.5..0.5
    order: tuple[int, ...] = (0, 1, 2, 3)  # places in (brightness, contrast, saturation, hue)

    def apply(self, image: FloatImage) -> FloatImage:
        """float32 BGR [0, 1] -> the same, clipped after each step."""
        for step in self.order:
            image = (self._brighten, self._stretch, self._saturate, self._turn)[step](image)
        return image

    def _brighten(self, image: FloatImage) -> FloatImage:
        return np.clip(image * self.brightness, 0, 1)

    def _stretch(self, image: FloatImage) -> FloatImage:
        mean = luminance(image).mean()
        return np.clip(mean + self.contrast * (image - mean), 0, 1)

    def _saturate(self, image: FloatImage) -> FloatImage:
        gray = luminance(image)
        return np.clip(gray + self.saturation * (image - gray), 0, 1)

    def _turn(self, image: FloatImage) -> FloatImage:
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        hsv[..., 0] = (hsv[..., 0] + self.hue * HUE_CIRCLE) % HUE_CIRCLE
        return np.clip(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR), 0, 1)


@dataclass(frozen=True)
class ColorJitterRanges:
    """Uniform ranges of a ColorJitter; the order of its steps is drawn too. Upstream's values stand as defaults."""

    brightness: Range = (0.5, 1.5)
    contrast: Range = (0.5, 1.5)
    saturation: Range = (0.0, 1.5)
    hue: Range = (-0.1, 0.1)

    def sample(self, rng: np.random.Generator) -> ColorJitter:
        """Draw one; always the same number of draws."""
        order = tuple(int(step) for step in rng.permutation(4))
        return ColorJitter(
            brightness=float(rng.uniform(*self.brightness)),
            contrast=float(rng.uniform(*self.contrast)),
            saturation=float(rng.uniform(*self.saturation)),
            hue=float(rng.uniform(*self.hue)),
            order=order,
        )


# The network shall take from a reference who it is, not how it was lit.
REFERENCE_JITTER = ColorJitterRanges((0.8, 1.2), (0.8, 1.2), (0.8, 1.2), (-0.02, 0.02))


def augment_reference(image: Image, rng: np.random.Generator) -> Image:
    """Mirror with probability 1/2, and change the colours a little; uint8 to uint8."""
    mirrored = rng.uniform() < 0.5
    jitter = REFERENCE_JITTER.sample(rng)
    changed = jitter.apply((flip(image) if mirrored else image).astype(np.float32) / np.float32(255))
    return np.asarray(np.rint(changed * 255), np.uint8)
