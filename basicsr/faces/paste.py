"""Restored faces back into their photo: soft masks, no seam, neighbours left alone.

Coordinates: px, 0 at the centre of the first pixel; a picture enlarged by s has u = (x + .5) s - .5.

Shapes: H, W canvas (the photo, enlarged); F side of a restored face; M side of a mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from basicsr.faces.align import Points
from basicsr.utils.img_util import Image

Canvas = NDArray[Any]  # uint8 or uint16 BGR (H, W, 3); faces have 8 bit

Mask = NDArray[np.float32]
Rectangle = tuple[int, int, int, int]  # left, top, right, bottom; the last two are not part of it

# the face in FFHQ framing, in shares of the side: a superellipse that ends inside the crop
CENTER, RADII, POWER = (0.5, 0.52), (0.42, 0.46), 2.5
FEATHER = 0.3  # share of the radius over which the mask fades
EDGE_FEATHER = 0.06  # share of the side over which a parsed mask fades towards the edge of the crop
EPSILON = 1e-4
BOX_COLOUR = (0, 255, 0)


class PlacedFace(NamedTuple):
    """A restored face and where it belongs."""

    image: Image  # uint8 BGR (F, F, 3)
    matrix: Points  # (2, 3), px of the photo to px of the aligned crop
    size: int  # side of that crop, px
    mask: Mask | None = None  # (M, M), 0..1, of the crop; None: `face_mask`


def face_mask(size: int) -> Mask:
    """Soft mask (size, size), 0..1, of a face in FFHQ framing, where no parsing network says better."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    across = np.abs((axis - CENTER[0]) / RADII[0])[None, :] ** POWER
    down = np.abs((axis - CENTER[1]) / RADII[1])[:, None] ** POWER
    return smooth_step((1 - (across + down) ** (1 / POWER)) / FEATHER)


def edge_mask(size: int) -> Mask:
    """Soft mask (size, size), 0..1, that is 1 but for the edge of the crop."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    inside = smooth_step(np.minimum(axis, 1 - axis) / EDGE_FEATHER)
    return np.minimum(inside[None, :], inside[:, None])


def smooth_step(x: NDArray[np.floating[Any]]) -> Mask:
    """0 below 0, 1 above 1, without a kink between."""
    x = np.clip(x, 0, 1)
    return np.asarray(x * x * (3 - 2 * x), np.float32)


def paste_faces(canvas: Canvas, faces: Sequence[PlacedFace], scale: float) -> Canvas:
    """The canvas with the faces in it. Pixels that no mask reaches stay as they are, bit for bit.

    Where masks of neighbours meet they share the pixel in proportion, whatever the order of the faces.

    Args:
        canvas: the photo enlarged by `scale`.
        scale: px of the canvas per px of the photo.
    """
    result, white = canvas.copy(), np.iinfo(canvas.dtype).max
    places = [(face, _rectangle(face, scale, canvas.shape)) for face in faces]
    for group in _touching([(face, place) for face, place in places if place is not None]):
        left, top = min(r[0] for _, r in group), min(r[1] for _, r in group)
        right, bottom = max(r[2] for _, r in group), max(r[3] for _, r in group)
        painted = np.zeros((bottom - top, right - left, 3), np.float32)
        weight = np.zeros((bottom - top, right - left, 1), np.float32)
        for face, (x0, y0, x1, y1) in group:
            pixels, mask = _warped(face, scale, (x0, y0, x1, y1))
            window = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
            painted[window] += pixels * (mask * (white / 255))
            weight[window] += mask
        below = canvas[top:bottom, left:right]
        blended = below * (1 - np.minimum(weight, 1)) + painted / np.maximum(weight, 1)
        result[top:bottom, left:right] = np.where(weight > 0, np.rint(np.clip(blended, 0, white)), below)
    return result


def draw_boxes(canvas: Image, boxes: Mapping[int, NDArray[np.float32]], scale: float) -> Image:
    """The canvas with green boxes, (4,) each, px of the photo, by the number that is drawn beside them."""
    result = canvas.copy()
    width = max(1, round(min(canvas.shape[:2]) / 300))
    for number, box in boxes.items():
        left, top, right, bottom = (round(float(value)) for value in box * scale)
        cv2.rectangle(result, (left, top), (right, bottom), BOX_COLOUR, width)
        place = (left, max(top - 2 * width, 12 * width))
        cv2.putText(result, str(number), place, cv2.FONT_HERSHEY_SIMPLEX, 0.5 * width, BOX_COLOUR, width, cv2.LINE_AA)
    return result


def _scaling(factor: float) -> Points:
    """Enlarging by `factor` as a matrix (3, 3): pixel edges scale."""
    shift = (factor - 1) / 2
    return np.array([[factor, 0, shift], [0, factor, shift], [0, 0, 1.0]])


def _canvas_to_face(face: PlacedFace, scale: float, side: int) -> Points:
    """(3, 3), px of the canvas to px of the face when it has `side` px."""
    return np.asarray(_scaling(side / face.size) @ np.vstack([face.matrix, [0, 0, 1]]) @ _scaling(1 / scale))


def _rectangle(face: PlacedFace, scale: float, shape: tuple[int, ...]) -> Rectangle | None:
    """The part of the canvas (H, W, ...) that the aligned crop covers; None where that is nothing."""
    from_face = np.linalg.inv(_canvas_to_face(face, scale, face.size))
    corners = np.array([(0, 0), (face.size, 0), (0, face.size), (face.size, face.size)]) - 0.5
    corners = corners @ from_face[:2, :2].T + from_face[:2, 2]
    left, top = np.maximum(np.floor(corners.min(0)), 0).astype(int)
    right, bottom = np.minimum(np.ceil(corners.max(0)) + 1, (shape[1], shape[0])).astype(int)
    return (int(left), int(top), int(right), int(bottom)) if right > left and bottom > top else None


def _warped(face: PlacedFace, scale: float, rectangle: Rectangle) -> tuple[Mask, Mask]:
    """Pixels (h, w, 3) and mask (h, w, 1) of a face in a part of the canvas."""
    left, top, right, bottom = rectangle
    side = len(face.image)
    image = face.image
    matrix = _canvas_to_face(face, scale, side)
    shrink = float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))  # px of the face per px of the canvas
    if shrink > 1 + EPSILON:  # averaged to its place first: sampled, its detail would alias
        side = max(1, round(side / shrink))
        image = np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
        matrix = _canvas_to_face(face, scale, side)
    matrix[:2, 2] += matrix[:2, :2] @ (left, top)
    flags, size = cv2.WARP_INVERSE_MAP, (right - left, bottom - top)
    pixels = cv2.warpAffine(image, matrix[:2], size, flags=flags | cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    mask = face_mask(side) if face.mask is None else np.minimum(_resized(face.mask, side), edge_mask(side))
    mask = cv2.warpAffine(mask, matrix[:2], size, flags=flags | cv2.INTER_LINEAR)
    return pixels.astype(np.float32), np.asarray(mask, np.float32)[..., None]


def _resized(mask: Mask, side: int) -> Mask:
    how = cv2.INTER_AREA if side < len(mask) else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(mask, (side, side), interpolation=how), np.float32)


def _touching(placed: Sequence[tuple[PlacedFace, Rectangle]]) -> list[list[tuple[PlacedFace, Rectangle]]]:
    """Faces in groups: those whose rectangles meet, directly or through others, are together."""
    groups: list[list[tuple[PlacedFace, Rectangle]]] = []
    for item in placed:
        left, top, right, bottom = item[1]
        near = [
            group
            for group in groups
            if any(r[0] < right and left < r[2] and r[1] < bottom and top < r[3] for _, r in group)
        ]
        groups = [group for group in groups if all(group is not other for other in near)]
        groups.append([item, *(other for group in near for other in group)])
    return groups
