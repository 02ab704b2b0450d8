"""Pictures that compare: the degraded face, a reference, and the face restored with several w, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from basicsr.inference.values import RestoredFace
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import Image

SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0)  # w
MIN_TILE = 192  # px: a label must fit below a tile
GAP = 6  # px


class Tile(NamedTuple):
    """A picture of a row and what stands below it."""

    image: Image  # uint8 BGR, square
    label: str
    note: str = ""


def comparison(
    degraded: Image, reference: Image | None, sweep: Sequence[tuple[float, RestoredFace | UserError]]
) -> Image:
    """Degraded | reference | restored with each w. uint8 BGR; tiles of the largest side that comes in.

    Args:
        degraded: aligned face (C, C, 3).
        reference: aligned face of the person; None: the column is left out.
        sweep: w and the face restored with it; one that could not be restored is a dark tile.
    """
    first = next((face for _, face in sweep if isinstance(face, RestoredFace)), None)
    tiles = [Tile(degraded, "degraded", _cosine(first.similarity_before if first else None))]
    if reference is not None:
        tiles.append(Tile(reference, "reference"))
    for w, face in sweep:
        if isinstance(face, RestoredFace):
            tiles.append(Tile(face.image, f"w = {w:g}", _cosine(face.similarity_after)))
        else:
            tiles.append(Tile(np.zeros((1, 1, 3), np.uint8), f"w = {w:g}", "not restored"))
    return draw_row(tiles)


def _cosine(similarity: float | None) -> str:
    return "" if similarity is None else f"cosine to reference {similarity:.2f}"


def draw_row(tiles: Sequence[Tile]) -> Image:
    """Tiles from left to right, each brought to one size, its label below it in black on white."""
    side = max(MIN_TILE, *(len(tile.image) for tile in tiles))
    text = max(12, side // 16)  # px
    width, height = len(tiles) * (side + GAP) + GAP, side + 2 * GAP + 3 * text
    canvas = np.full((height, width, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        left = GAP + i * (side + GAP)
        how = cv2.INTER_CUBIC if len(tile.image) < side else cv2.INTER_AREA
        canvas[GAP : GAP + side, left : left + side] = cv2.resize(tile.image, (side, side), interpolation=how)
    picture = PillowImage.fromarray(canvas)
    draw, font, small = ImageDraw.Draw(picture), ImageFont.load_default(text), ImageFont.load_default(text * 3 // 4)
    for i, tile in enumerate(tiles):
        middle = GAP + i * (side + GAP) + side // 2
        draw.text((middle, side + 2 * GAP), tile.label, (0, 0, 0), font, anchor="ma")
        draw.text((middle, side + 2 * GAP + 3 * text // 2), tile.note, (0, 0, 0), small, anchor="ma")
    return np.asarray(picture, np.uint8)
