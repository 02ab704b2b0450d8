"""Contact sheets: many small pictures with captions on one, for a person to look at what a tool has found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from basicsr.utils.errors import ImageFileError
from basicsr.utils.img_util import Image, imread, imwrite

FONT_SIZE = 11  # px
LINE = 15  # px
GAP = 12  # px, between groups
WIDTH = 1280  # px, of a sheet
BACKGROUND, INK, FAINT = (250, 250, 250), (20, 20, 20), (200, 200, 200)


class Tile(NamedTuple):
    """A picture and what stands under it."""

    path: Path
    caption: str = ""


class Group(NamedTuple):
    """Pictures that stand together, under a heading."""

    heading: str
    tiles: Sequence[Tile]


def write_contact_sheet(path: Path, title: str, groups: Sequence[Group], tile: int = 96, max_groups: int = 80) -> None:
    """Groups from left to right, top to bottom; a group that does not fit into the line starts the next one.

    Args:
        tile: side of a picture on the sheet, px.
        max_groups: the sheet shows the first so many, and its title says of how many.
    Raises:
        ImageFileError: it cannot be written.
    """
    shown = groups[:max_groups]
    if len(shown) < len(groups):
        title = f"{title} (the first {len(shown)} of {len(groups)})"
    places, height = _layout(shown, tile)
    sheet = PillowImage.new("RGB", (WIDTH, height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), FONT_SIZE)
    draw.text((GAP, GAP // 2), _fitting(title, font, WIDTH - 2 * GAP), INK, font)
    for group, (left, top, columns) in zip(shown, places, strict=True):
        width = columns * tile
        draw.text((left, top), _fitting(group.heading, font, width), INK, font)
        for number, item in enumerate(group.tiles):
            x, y = left + number % columns * tile, top + LINE + number // columns * (tile + LINE)
            sheet.paste(_thumbnail(item.path, tile), (x, y))
            draw.text((x, y + tile), _fitting(item.caption, font, tile - 2), INK, font)
    imwrite(path, np.ascontiguousarray(np.asarray(sheet)[..., ::-1]))


def _layout(groups: Sequence[Group], tile: int) -> tuple[list[tuple[int, int, int]], int]:
    """(left, top, columns) of each group, and the height of the sheet."""
    most = (WIDTH - 2 * GAP) // tile
    places, left, top, line_height = [], GAP, GAP + LINE, 0
    for group in groups:
        columns = max(1, min(len(group.tiles), most))
        height = LINE + -(-len(group.tiles) // columns) * (tile + LINE) + GAP
        if left > GAP and left + columns * tile > WIDTH - GAP:
            left, top, line_height = GAP, top + line_height, 0
        places.append((left, top, columns))
        left += columns * tile + GAP
        line_height = max(line_height, height)
    return places, top + line_height + GAP


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """As much of a line as fits."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _thumbnail(path: Path, side: int) -> PillowImage.Image:
    """A picture scaled to fit a square of `side` px; an empty frame where it cannot be read."""
    canvas = PillowImage.new("RGB", (side - 2, side - 2), FAINT)
    try:
        image = imread(path)
    except ImageFileError:
        ImageDraw.Draw(canvas).line((0, 0, side, side), INK)
        return canvas
    scale = (side - 2) / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small: Image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC))
    canvas.paste(PillowImage.fromarray(np.ascontiguousarray(small[..., ::-1])))
    return canvas
