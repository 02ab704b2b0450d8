"""White brush strokes over a picture: what inpainting has to fill. The released ranges, drawn first, applied second."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from basicsr.utils.img_util import Image

WHITE = (255, 255, 255)
MAX_STROKES = 3
VERTICES = (8, 27)  # fewest and most of a stroke
TURN, TURN_SPREAD = 2 * np.pi / 5, 2 * np.pi / 12  # radians between two lines of a stroke


@dataclass(frozen=True)
class Stroke:
    """A zigzag with round corners."""

    vertices: tuple[tuple[int, int], ...]  # x, y in px
    width: int  # px


def draw_strokes(image: Image, strokes: tuple[Stroke, ...]) -> Image:
    """The strokes in pure white, a copy; uint8 BGR. Pixels that are white in all channels are the mask at inference."""
    image = image.copy()
    for stroke in strokes:
        points = np.asarray(stroke.vertices, np.int32)
        cv2.polylines(image, [points], isClosed=False, color=WHITE, thickness=stroke.width)
        for vertex in stroke.vertices:
            cv2.circle(image, vertex, stroke.width // 2, WHITE, thickness=-1)
    return image


def sample_strokes(rng: np.random.Generator, size: int, width_range: tuple[float, float]) -> tuple[Stroke, ...]:
    """One to three strokes for a picture of `size` px.

    A stroke starts anywhere; its lines turn to and fro by about TURN, are a normal number of px long (mean an eighth of
    the diagonal, half of that as deviation, at most twice the mean), and stay inside of the picture.

    Args:
        width_range: px, of this picture.
    """
    return tuple(_sample_stroke(rng, size, width_range) for _ in range(int(rng.integers(1, MAX_STROKES + 1))))


def _sample_stroke(rng: np.random.Generator, size: int, width_range: tuple[float, float]) -> Stroke:
    count = int(rng.integers(VERTICES[0], VERTICES[1] + 1))
    low, high = TURN - rng.uniform(0, TURN_SPREAD), TURN + rng.uniform(0, TURN_SPREAD)
    angles = rng.uniform(low, high, size=count)
    angles[::2] = 2 * np.pi - angles[::2]
    mean = np.hypot(size, size) / 8
    lengths = np.clip(rng.normal(mean, mean / 2, size=count), 0, 2 * mean)
    at = rng.uniform(0, size, size=2)
    vertices = [(int(at[0]), int(at[1]))]
    for angle, length in zip(angles[1:], lengths[1:], strict=True):
        at = np.clip(at + length * np.array([np.cos(angle), np.sin(angle)]), 0, size)
        vertices.append((int(at[0]), int(at[1])))
    return Stroke(tuple(vertices), max(1, int(rng.uniform(*width_range))))
