"""The fixed crop from FFHQ framing to the aligned template of a recogniser, differentiable and antialiased.

The similarity that maps the FFHQ-512 landmarks onto the ArcFace-112 landmarks has scale .29209 and no rotation, so it
is a plain window: x in [64, 448), y in [61, 445) of the 512 px face, shrunk to 112 px (1.8 px mean landmark residual).
Faces of other sizes use the same fractions; the window then starts between pixels, and stays there.

Shapes: B batch; C channels; S side of the FFHQ-framed face; H, W input of the recogniser; pixel edges, not centres.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from basicsr.utils.errors import ImageFileError

FFHQ_SIZE = 512  # px, side of the picture that the window below is stated for
ARCFACE_SIZE = 112  # px, side of the ArcFace template
ARCFACE_LEFT, ARCFACE_TOP, ARCFACE_SIDE = 64.0, 61.0, 384.0  # px of FFHQ_SIZE

CUBIC = -0.5  # Keys' kernel, what torch and Pillow use for antialiased bicubic


class Window(NamedTuple):
    """Edges of a crop in pixels of the picture; they may lie between pixels and outside."""

    left: float
    top: float
    right: float
    bottom: float


def template_window(
    size: int, input_size: tuple[int, int] = (112, 112), template_offset: tuple[float, float] = (0.0, 0.0)
) -> Window:
    """Part of an FFHQ-framed face that a recogniser sees.

    Args:
        size: side of the face, px.
        input_size: (H, W) of the recogniser; its template is ArcFace-112 times H/112.
        template_offset: (x, y) px of the input, added to that template.
    """
    height, width = input_size
    step = ARCFACE_SIDE / height * size / FFHQ_SIZE  # px of the face per px of the input
    left = ARCFACE_LEFT * size / FFHQ_SIZE - template_offset[0] * step
    top = ARCFACE_TOP * size / FFHQ_SIZE - template_offset[1] * step
    return Window(left, top, left + width * step, top + height * step)


def crop_to_template(
    images: Tensor, input_size: tuple[int, int] = (112, 112), template_offset: tuple[float, float] = (0.0, 0.0)
) -> Tensor:
    """FFHQ-framed faces (B, C, S, S) -> aligned input of the recogniser (B, C, H, W), the same value range.

    Bicubic with the kernel widened by the shrink factor. Values may overshoot the range a little; they are not clamped,
    which would stop gradients.
    """
    height, width = images.shape[-2:]
    if height != width:
        raise ImageFileError(
            f"face of {width}x{height} px: recognisers here take square faces in FFHQ framing. Align the picture first."
        )
    window = template_window(width, input_size, template_offset)
    rows = _resample_matrix(height, input_size[0], window.top, window.bottom, images.device)  # (H, S)
    columns = _resample_matrix(width, input_size[1], window.left, window.right, images.device)  # (W, S)
    images = images @ columns.T.to(images.dtype)  # (B, C, S, S) -> (B, C, S, W)
    return rows.to(images.dtype) @ images  # (B, C, S, W) -> (B, C, H, W)


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
