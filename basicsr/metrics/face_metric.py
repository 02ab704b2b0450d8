"""PSNR and LPIPS of the face alone: the background of a portrait dominates the figures of the whole picture.

Shapes: B batch; H, W pixels; h_k, w_k size of the k-th feature map.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from basicsr.metrics.base_metric import Metric
from basicsr.metrics.face_region import MASK_TEXT, REGION_TEXT, face_ellipse
from basicsr.metrics.lpips_metric import Backbone, available_net
from basicsr.utils.img_util import to_uint8
from basicsr.utils.registry import METRIC_REGISTRY


class MaskedReference(NamedTuple):
    """Ground truths and where their faces are."""

    gt: Tensor  # (B, 3, H, W) RGB [-1, 1]
    mask: Tensor  # (B, H, W) bool


def face_masks(gt: Tensor, masks: Tensor | None = None) -> Tensor:
    """(B, H, W) bool: the masks that are given, else the ellipse for every picture of (B, 3, H, W)."""
    if masks is not None:
        return masks.bool()
    return face_ellipse(*gt.shape[-2:]).to(gt.device).expand(len(gt), -1, -1)


@METRIC_REGISTRY.register()
class FacePSNRMetric(Metric):
    """PSNR over the pixels of the face, RGB, dB; infinite when they are equal.

    Args:
        with_masks: the caller gives a mask for every picture (for the protocol); else the ellipse of FFHQ framing.
    """

    better = "higher"
    label = "PSNR (face)"
    value_range = "dB, 0 to inf"

    def __init__(self, with_masks: bool = False) -> None:
        super().__init__()
        self.protocol = f"RGB, dB, 8 bit, pixels in the {MASK_TEXT if with_masks else REGION_TEXT}"

    def score(self, restored: Tensor, gt: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B,) dB."""
        return self.compare(restored, self.reference(gt))

    def reference(self, gt: Tensor, masks: Tensor | None = None) -> MaskedReference:
        """`masks`: (B, H, W) bool; None: the ellipse."""
        return MaskedReference(gt, face_masks(gt, masks))

    def compare(self, restored: Tensor, reference: MaskedReference) -> Tensor:
        """(B, 3, H, W) against `reference` -> (B,) dB."""
        difference = to_uint8(restored).float() - to_uint8(reference.gt).float()
        # whole numbers below 2^24: float32 holds them as they are
        squares = difference.square_().sum(1).mul_(reference.mask)  # (B, 3, H, W) -> (B, H, W)
        squares = squares.sum((1, 2), dtype=torch.float64) / (3 * reference.mask.sum((1, 2)))
        return 10 * torch.log10(255.0**2 / squares)


@METRIC_REGISTRY.register()
class FaceLPIPSMetric(Metric):
    """LPIPS whose spatial means are weighted with the share of the face in each cell. The nets see the whole picture.

    Args:
        net, backbone: as in LPIPSMetric.
    Raises:
        MetricUnavailable: the backbone is not on this machine.
    """

    better = "lower"
    value_range = "[0, about 1]"

    def __init__(self, net: Backbone = "alex", backbone: str | None = None) -> None:
        super().__init__()
        self.net = available_net(net, backbone)
        self.label = f"LPIPS-{net} (face)"
        self.protocol = face_lpips_protocol(with_masks=False)

    def score(self, restored: Tensor, gt: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B,) distances, 0 is equal."""
        self.net.to(restored.device)
        with torch.autocast(restored.device.type, enabled=False):
            maps = self.net.maps(self.net.features(restored), self.net.features(gt))
            return self.net.pooled(maps, face_masks(gt)[:, None].float())


def face_lpips_protocol(with_masks: bool) -> str:
    """The conditions of LPIPS in the face region."""
    where = MASK_TEXT if with_masks else REGION_TEXT
    return (
        f"LPIPS v0.1 linear layers, RGB [-1, 1], 8 bit, float32; maps of the whole picture, weighted with the {where}"
    )
