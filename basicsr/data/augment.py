"""Mirroring, small movements and colour changes: drawn first, applied second.

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
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    return np.asarray(cv2.merge([gray, gray, gray]))


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
        image = image.copy()  # once: the steps work in place, which halves their time
        for step in self.order:
            image = (self._brighten, self._stretch, self._saturate, self._turn)[step](image)
            np.clip(image, 0, 1, out=image)
        return image

    def _brighten(self, image: FloatImage) -> FloatImage:
        image *= np.float32(self.brightness)
        return image

    def _stretch(self, image: FloatImage) -> FloatImage:
        mean = luminance(image).mean()
        image -= float(mean)
        image *= np.float32(self.contrast)
        image += float(mean)
        return image

    def _saturate(self, image: FloatImage) -> FloatImage:
        gray = to_gray(image)
        image -= gray
        image *= np.float32(self.saturation)
        image += gray
        return image

    def _turn(self, image: FloatImage) -> FloatImage:
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        hue: FloatImage = cv2.extractChannel(hsv, 0)
        hue += np.float32(self.hue * HUE_CIRCLE)
        np.subtract(hue, np.float32(HUE_CIRCLE), out=hue, where=hue >= HUE_CIRCLE)
        np.add(hue, np.float32(HUE_CIRCLE), out=hue, where=hue < 0)
        cv2.insertChannel(hue, hsv, 0)
        return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR))


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


# The network shall take from a reference who it is: not how it was lit, nor where exactly it lies in the crop.
REFERENCE_JITTER = ColorJitterRanges((0.8, 1.2), (0.8, 1.2), (0.8, 1.2), (-0.02, 0.02))
MAX_TURN = np.deg2rad(2.0)
MAX_MOVE, MAX_ZOOM = 0.05, 0.05  # of the side; of 1
PERSPECTIVE_PROB, MAX_PERSPECTIVE = 0.5, 0.2  # a corner comes in by at most this part of half the side


@dataclass(frozen=True)
class ReferenceAugmentation:
    """How one reference is changed: mirrored, moved a little, seen from a little aside, lit otherwise."""

    mirrored: bool
    jitter: ColorJitter
    turn: float = 0.0  # radians
    zoom: float = 1.0
    move: tuple[float, float] = (0.0, 0.0)  # x, y, of the side
    corners: tuple[tuple[float, float], ...] | None = None  # of half the side, inwards; from the upper left, clockwise

    @classmethod
    def sample(cls, rng: np.random.Generator) -> ReferenceAugmentation:
        """Draw one; always the same number of draws."""
        mirrored = rng.uniform() < 0.5
        jitter = REFERENCE_JITTER.sample(rng)
        turn = float(rng.uniform(-MAX_TURN, MAX_TURN))
        zoom = float(rng.uniform(1 - MAX_ZOOM, 1 + MAX_ZOOM))
        x, y = rng.uniform(-MAX_MOVE, MAX_MOVE, size=2)
        tilted = rng.uniform() < PERSPECTIVE_PROB
        corners = tuple((float(dx), float(dy)) for dx, dy in rng.uniform(0, MAX_PERSPECTIVE, size=(4, 2)))
        return cls(bool(mirrored), jitter, turn, zoom, (float(x), float(y)), corners if tilted else None)

    def matrix(self, size: int) -> NDArray[np.float64]:
        """(3, 3): where a pixel of a picture of `size` px goes, mirroring included."""
        middle = (size - 1) / 2
        cos, sin = self.zoom * np.cos(self.turn), self.zoom * np.sin(self.turn)
        side = -1.0 if self.mirrored else 1.0
        there = np.array([[side, 0, -side * middle], [0, 1, -middle], [0, 0, 1]])
        back = [middle + self.move[0] * size, middle + self.move[1] * size]
        matrix = np.array([[cos, -sin, back[0]], [sin, cos, back[1]], [0, 0, 1]]) @ there
        if self.corners is None:
            return matrix
        square = np.array([[0, 0], [size - 1, 0], [size - 1, size - 1], [0, size - 1]], np.float32)
        inwards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * np.asarray(self.corners) * (size / 2)
        return np.asarray(cv2.getPerspectiveTransform(square, (square + inwards).astype(np.float32)) @ matrix)

    def apply(self, image: Image) -> Image:
        """uint8 BGR (S, S, 3) to the same; what comes in from outside is the mirrored edge."""
        size = image.shape[0]
        moved = cv2.warpPerspective(
            image, self.matrix(size), (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )
        changed = self.jitter.apply(moved.astype(np.float32) / np.float32(255))
        return np.asarray(cv2.convertScaleAbs(changed, alpha=255), np.uint8)


def augment_reference(image: Image, rng: np.random.Generator) -> Image:
    """A reference as training sees it; uint8 to uint8. See ReferenceAugmentation."""
    return ReferenceAugmentation.sample(rng).apply(image)
