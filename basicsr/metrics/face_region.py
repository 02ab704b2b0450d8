"""The face inside an FFHQ-framed picture: where metrics of the face region look. Background and hair are not identity.

Shapes: H, W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Hairline to chin and ear to ear in FFHQ framing, where the eyes lie at y = .47 and the mouth at .73. Shares of width
# (x) and height (y). The ellipse of the colour metric is narrower: skin alone.
REGION_CENTER = (0.50, 0.56)
REGION_RADII = (0.28, 0.36)
REGION_TEXT = (
    f"ellipse of the face at ({REGION_CENTER[0]:.2f}, {REGION_CENTER[1]:.2f}) with radii ({REGION_RADII[0]:.2f}, "
    f"{REGION_RADII[1]:.2f}) of width and height, FFHQ framing"
)
MASK_TEXT = "mask of the face given for the picture"


def face_ellipse(height: int, width: int) -> Tensor:
    """(H, W) bool: pixels whose centre lies in the ellipse."""
    y = ((torch.arange(height, dtype=torch.float64) + 0.5) / height - REGION_CENTER[1]) / REGION_RADII[1]
    x = ((torch.arange(width, dtype=torch.float64) + 0.5) / width - REGION_CENTER[0]) / REGION_RADII[0]
    return x.square() + y.square()[:, None] <= 1
