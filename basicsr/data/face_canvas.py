"""The canvas that generated faces are painted on: planes, patches, soft edges, noise, colours.

Shapes: S side of the inner picture; h, w the patch of it that one feature touches. Colours are BGR in [0, 1].
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from basicsr.data.face_geometry import FRAME, Floats
from basicsr.data.face_traits import Person

Colour = tuple[float, float, float]

SKIN_COLOURS: tuple[Colour, ...] = (
    (0.70, 0.78, 0.92),
    (0.59, 0.69, 0.88),
    (0.44, 0.57, 0.79),
    (0.26, 0.36, 0.56),
    (0.16, 0.22, 0.36),
)
HAIR_COLOURS: tuple[Colour, ...] = (
    (0.07, 0.07, 0.08),
    (0.08, 0.12, 0.19),
    (0.13, 0.21, 0.34),
    (0.14, 0.27, 0.50),
    (0.42, 0.60, 0.76),
)
IRIS_COLOURS: tuple[Colour, ...] = (
    (0.07, 0.12, 0.22),
    (0.10, 0.24, 0.45),
    (0.22, 0.42, 0.42),
    (0.42, 0.52, 0.38),
    (0.72, 0.56, 0.36),
    (0.62, 0.60, 0.56),
)
GREY_HAIR: Colour = (0.66, 0.68, 0.70)
TILE = 256  # side of the noise tile
COARSE_STEPS = 64  # patches are found on this grid


def clip01(values: Floats) -> Floats:
    """A copy, clipped to [0, 1]; quicker than np.clip on small patches."""
    low = np.maximum(values, 0)
    return np.minimum(low, 1, out=low)


@lru_cache(maxsize=1)
def noise_tile() -> Floats:
    """Periodic smooth noise (TILE, TILE), mean 0, deviation 1: the same for everybody, read at other places."""
    white = np.random.Generator(np.random.PCG64(20220)).standard_normal((TILE, TILE)).astype(np.float32)
    smooth = cv2.GaussianBlur(np.pad(white, 8, mode="wrap"), (0, 0), 1.1)[8:-8, 8:-8]
    return np.ascontiguousarray((smooth - smooth.mean()) / smooth.std())


def noise(x: Floats, y: Floats) -> Floats:
    """The tile's values at (x, y), any equal shapes (h, w); 1 unit is about one grain."""
    if not x.size:  # an empty patch, which cv2 refuses
        return x
    values: Floats = cv2.remap(noise_tile(), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return values


def ramp(colours: tuple[Colour, ...], share: float) -> Floats:
    """Colour (3,) at `share` in [0, 1] of the way along the stops."""
    place = min(max(share, 0.0), 1.0) * (len(colours) - 1)
    index = min(int(place), len(colours) - 2)
    return blend(colours[index], colours[index + 1], place - index)


def blend(first: Floats | Colour, second: Floats | Colour, share: float) -> Floats:
    """Colour (3,), `share` of the way from `first` to `second`."""
    return np.asarray(first, np.float32) * np.float32(1 - share) + np.asarray(second, np.float32) * np.float32(share)


def skin_colour(person: Person) -> Floats:
    tint = np.array([1 - 0.06 * person.undertone, 1, 1 + 0.03 * person.undertone], np.float32)
    return clip01(ramp(SKIN_COLOURS, person.melanin) * tint)


def hair_colour(person: Person) -> Floats:
    tone = ramp(HAIR_COLOURS, person.hair_tone * (1.15 - 0.95 * person.melanin))
    return blend(tone, GREY_HAIR, min(0.9, max(0.0, person.hair_grey)))


def lip_colour(person: Person) -> Floats:
    rosy = skin_colour(person) * np.array([0.68, 0.62, 0.92], np.float32)
    red = blend((0.26, 0.20, 0.66), rosy, 0.35)
    return blend(rosy, red, person.lip_red) * np.float32(1 - 0.6 * person.lip_dark)


def iris_colour(person: Person) -> Floats:
    return ramp(IRIS_COLOURS, person.iris_hue * (1.1 - 0.45 * person.melanin))


class Patch(NamedTuple):
    """A window of a canvas: head-space x, y (h, w); views pixels (3, h, w), shade (h, w); px of 512 in a pixel."""

    x: Floats
    y: Floats
    pixels: Floats
    shade: Floats
    unit: float

    def inside(self, distance: Floats, softness: float = 0.0) -> Floats:
        """Cover (h, w) in [0, 1] of `distance` > 0, smooth over one pixel or `softness`, whichever is wider."""
        return clip01(distance * np.float32(1 / max(self.unit, softness)) + np.float32(0.5))

    def paint(self, cover: Floats, colour: Floats | Colour) -> None:
        """Lay `colour` ((3,) or (3, h, w)) over the pixels, as opaque as `cover` (h, w)."""
        colour = np.asarray(colour, np.float32)
        layer = colour[:, None, None] if colour.ndim == 1 else colour
        step = layer - self.pixels
        step *= cover
        np.add(self.pixels, step, out=self.pixels)

    def darken(self, cover: Floats, strength: float) -> None:
        """Add to the shade that the light is multiplied by later: small hollows that the relief is too coarse for."""
        np.add(self.shade, cover * np.float32(strength), out=self.shade)


class Canvas:
    """A picture under work, BGR float32 (3, S, S), with the head-space point that each pixel shows.

    shade: (S, S), what small hollows take of the light; only the skin uses it.
    """

    def __init__(self, x: Floats, y: Floats, pixels: Floats) -> None:
        self.x, self.y, self.pixels = x, y, pixels
        self.shade = np.zeros(x.shape, np.float32)
        self.unit = FRAME / len(x)
        self._step = max(1, len(x) // COARSE_STEPS)
        x, y = x[:: self._step, :: self._step], y[:: self._step, :: self._step]
        self._columns = x.min(0), x.max(0)
        self._rows = y.min(1), y.max(1)

    def whole(self) -> Patch:
        return Patch(self.x, self.y, self.pixels, self.shade, self.unit)

    def patch(self, left: float, top: float, right: float, bottom: float) -> Patch:
        """The window that holds the head-space box, and a little more; may be empty."""
        rows, columns = self._window(self._rows, top, bottom), self._window(self._columns, left, right)
        return Patch(
            self.x[rows, columns],
            self.y[rows, columns],
            self.pixels[:, rows, columns],
            self.shade[rows, columns],
            self.unit,
        )

    def _window(self, reach: tuple[Floats, Floats], low: float, high: float) -> slice:
        margin = 1.2 * self.unit * self._step
        found = np.flatnonzero((reach[1] > low - margin) & (reach[0] < high + margin))
        return slice(found[0] * self._step, (found[-1] + 1) * self._step) if len(found) else slice(0, 0)
