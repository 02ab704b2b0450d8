"""Perceptual loss: LPIPS as a training loss. Paper: Zhang et al. 2018.

Shapes: B batch; H, W pixels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from basicsr.utils.lpips_net import LPIPSNet
from basicsr.utils.registry import LOSS_REGISTRY

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)


@LOSS_REGISTRY.register()
class LPIPSLoss(nn.Module):
    """loss_weight * mean over the batch of LPIPS(pred, target).

    Args:
        net: backbone of LPIPS.
        backbone: its weights file; None looks in weights/lpips/ and torch's hub folder. Nothing is downloaded.
        upstream_scaling: normalise by ImageNet's mean and std *before* LPIPS does it again, as CodeFormer was trained.
            The values are those of another function: compare losses only within one setting.
    Raises:
        BackboneMissingError (a UserError): names the file and the place.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        loss_weight: float = 1.0,
        net: Literal["vgg", "alex", "squeeze"] = "vgg",
        backbone: str | None = None,
        upstream_scaling: bool = False,
    ) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.upstream_scaling = upstream_scaling
        self.lpips = LPIPSNet(net, backbone)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """(B, 3, H, W) RGB [-1, 1] twice -> weighted scalar."""
        if self.upstream_scaling:
            pred, target = self._imagenet(pred), self._imagenet(target)
        return self.loss_weight * self.lpips(pred, target).mean()

    def _imagenet(self, images: Tensor) -> Tensor:
        """[-1, 1] -> [0, 1] -> ImageNet's zero mean and unit deviation, same shape."""
        return ((images + 1) / 2 - self.mean) / self.std
