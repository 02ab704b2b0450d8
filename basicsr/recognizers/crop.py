"""From a face to the aligned input of a recogniser, differentiable in the picture and antialiased.

Two ways to one template. Faces in FFHQ framing need no detector: the similarity that maps the FFHQ-512 landmarks onto
the ArcFace-112 landmarks has scale .29209 and no rotation, so it is a plain window, x in [64, 448), y in [61, 445) of
the 512 px face, shrunk to 112 px (1.8 px mean landmark residual). Faces of other sizes use the same fractions; the
window then starts between pixels, and stays there. Any other picture comes with five landmarks per face: their
least-squares similarity to the template is sampled upright at the picture's own resolution, then shrunk the same way.

Shapes: B batch; C channels; S side of an FFHQ-framed face; H, W input of the recogniser; pixel edges, not centres,
unless landmarks are meant.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.faces.align import ARCFACE_112, FFHQ_512, Points, scale_template, umeyama_similarity
from basicsr.utils.errors import ImageFileError

TemplateName = Literal["arcface_112", "ffhq_512"]

FFHQ_SIZE = 512  # px, side of the picture that the windows below are stated for
CUBIC = -0.5  # Keys' kernel, what torch and Pillow use for antialiased bicubic
MIN_WINDOW = 4.0  # px: landmarks closer than that are no pixel coordinates
MAX_WINDOW = 2.0  # of the longer side: a window that large shows next to nothing of the picture


class Template(NamedTuple):
    """Where the landmarks belong, and the part of an FFHQ-512 face that brings them there."""

    points: Points  # (5, 2) px of a square picture of `size`
    size: int
    left: float  # px of FFHQ_SIZE, as are top and side
    top: float
    side: float


TEMPLATES: dict[TemplateName, Template] = {
    "arcface_112": Template(ARCFACE_112, 112, 64.0, 61.0, 384.0),
    "ffhq_512": Template(FFHQ_512, 512, 0.0, 0.0, 512.0),  # the whole face, as GFPGAN's recogniser is fed
}


class Window(NamedTuple):
    """Edges of a crop in pixels of the picture; they may lie between pixels and outside."""

    left: float
    top: float
    right: float
    bottom: float


def template_window(
    size: int,
    input_size: tuple[int, int] = (112, 112),
    template_offset: tuple[float, float] = (0.0, 0.0),
    template: TemplateName = "arcface_112",
) -> Window:
    """Part of an FFHQ-framed face that a recogniser sees.

    Args:
        size: side of the face, px.
        input_size: (H, W) of the recogniser; its template is the named one, scaled to a height of H.
        template_offset: (x, y) px of the input, added to that template.
    """
    height, width = input_size
    base = TEMPLATES[template]
    step = base.side / height * size / FFHQ_SIZE  # px of the face per px of the input
    left = base.left * size / FFHQ_SIZE - template_offset[0] * step
    top = base.top * size / FFHQ_SIZE - template_offset[1] * step
    return Window(left, top, left + width * step, top + height * step)


def template_points(
    input_size: tuple[int, int] = (112, 112),
    template_offset: tuple[float, float] = (0.0, 0.0),
    template: TemplateName = "arcface_112",
) -> Points:
    """The five landmarks (5, 2) of an aligned input, px, 0 at the centre of its first pixel."""
    base = TEMPLATES[template]
    return scale_template(base.points, input_size[0] / base.size) + np.array(template_offset)


def crop_to_template(
    images: Tensor,
    input_size: tuple[int, int] = (112, 112),
    template_offset: tuple[float, float] = (0.0, 0.0),
    template: TemplateName = "arcface_112",
    landmarks: Tensor | None = None,
) -> Tensor:
    """Faces -> aligned input of the recogniser (B, C, H, W), the same value range; float32, float64 stays.

    Bicubic with the kernel widened by the shrink factor. Values may overshoot the range a little; they are not clamped,
    which would stop gradients. Beyond the picture its nearest pixels are seen.

    Args:
        images: without landmarks FFHQ-framed faces (B, C, S, S); with landmarks any pictures (B, C, any, any).
        landmarks: (B, 5, 2) x, y in px of the pictures, 0 at the centre of the first pixel, in the order of
            basicsr/faces/align.py. They get no gradient.
    Raises:
        ImageFileError: a face that is not square without landmarks; landmarks that give no sensible window.
    """
    images = images if images.dtype == torch.float64 else images.float()
    height, width = images.shape[-2:]
    if landmarks is not None:
        points = template_points(input_size, template_offset, template)
        upright, factor = _upright(images, landmarks, points, input_size)  # (B, C, H*factor, W*factor)
        return _resample(upright, input_size, Window(0.0, 0.0, input_size[1] * factor, input_size[0] * factor))
    if height != width:
        raise ImageFileError(
            f"face of {width}x{height} px: without landmarks recognisers take square faces in FFHQ framing. Align the "
            "picture first, or give its landmarks."
        )
    return _resample(images, input_size, template_window(width, input_size, template_offset, template))


def _resample(images: Tensor, input_size: tuple[int, int], window: Window) -> Tensor:
    """The window of (B, C, any, any) as (B, C, H, W), antialiased."""
    rows = _resample_matrix(images.shape[2], input_size[0], window.top, window.bottom, images.device)
    columns = _resample_matrix(images.shape[3], input_size[1], window.left, window.right, images.device)
    images = images @ columns.T.to(images.dtype)  # (B, C, any, any) -> (B, C, any, W)
    return rows.to(images.dtype) @ images  # (B, C, any, W) -> (B, C, H, W)


def _upright(images: Tensor, landmarks: Tensor, points: Points, input_size: tuple[int, int]) -> tuple[Tensor, int]:
    """The template's window of each picture, turned upright at about the picture's own resolution.

    Returns:
        (B, C, H*factor, W*factor) and the factor: the smallest at which no picture is sampled coarser than its pixels,
        so that nothing aliases here.
    """
    height, width = images.shape[-2:]
    if landmarks.shape != (len(images), 5, 2):
        raise ImageFileError(
            f"landmarks of shape {tuple(landmarks.shape)} for {len(images)} pictures; expected ({len(images)}, 5, 2)."
        )
    to_input = [
        _similarity(sample, points, i, (width, height), input_size[1])
        for i, sample in enumerate(landmarks.detach().double().cpu().numpy())
    ]
    step = max(1 / math.hypot(*matrix[:2, 0]) for matrix in to_input)  # px of the picture per px of the input
    factor = max(1, math.ceil(step - 1e-6))  # a face at its own scale stays at its own pixels
    from_input, of_picture = np.linalg.inv(_normalized(*input_size)), _normalized(height, width)
    theta = np.stack([(of_picture @ np.linalg.inv(matrix) @ from_input)[:2] for matrix in to_input])
    grid = F.affine_grid(
        torch.from_numpy(theta).to(images.device, images.dtype),
        [len(images), 1, input_size[0] * factor, input_size[1] * factor],
        align_corners=False,
    )
    return F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False), factor


def _similarity(sample: Points, points: Points, number: int, size: tuple[int, int], input_width: int) -> Points:
    """Similarity (3, 3) from one picture's landmarks onto the template, px. `size`: (width, height) of the picture."""
    way_out = "expected five points x, y in px of the picture. Detect them in this very picture, or leave it out."
    if not np.isfinite(sample).all() or np.ptp(sample, axis=0).max() == 0:
        raise ImageFileError(f"landmarks of picture {number}: {sample.round(1).tolist()}; {way_out}")
    matrix = np.vstack([umeyama_similarity(sample, points), [0.0, 0.0, 1.0]])
    scale = math.hypot(*matrix[:2, 0])
    if not input_width / (MAX_WINDOW * max(size)) <= scale <= input_width / MIN_WINDOW:
        raise ImageFileError(
            f"landmarks of picture {number}: {sample.round(1).tolist()} in a picture of {size[0]}x{size[1]} px give a "
            f"crop of {input_width / max(scale, 1e-9):.3g} px; {way_out}"
        )
    return matrix


def _normalized(height: int, width: int) -> Points:
    """Pixel coordinates -> torch's grid coordinates (align_corners=False), (3, 3)."""
    return np.array([[2 / width, 0.0, 1 / width - 1], [0.0, 2 / height, 1 / height - 1], [0.0, 0.0, 1.0]])


@lru_cache(maxsize=64)
def _resample_matrix(num_in: int, num_out: int, start: float, stop: float, device: torch.device) -> Tensor:
    """Weights (num_out, num_in) that sample the edges [start, stop) at num_out points; every row sums to 1.

    A window beyond the picture sees its nearest pixels (weights renormalised).
    """
    step = (stop - start) / num_out
    # inference_mode off: a cached inference tensor could not be saved for a later backward
    with torch.inference_mode(False):
        centers = start + (torch.arange(num_out, dtype=torch.float64) + 0.5) * step - 0.5
        distance = (torch.arange(num_in, dtype=torch.float64) - centers[:, None]) / max(step, 1.0)  # (num_out, num_in)
        weights = _cubic(distance.abs())
        return (weights / weights.sum(1, keepdim=True)).float().to(device)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic kernel at distances >= 0, zero from 2 on."""
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
    far = CUBIC * (((distance - 5) * distance + 8) * distance - 4)
    return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))
