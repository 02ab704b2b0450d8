"""Losses on pixels: L1, MSE, Charbonnier (Charbonnier et al. 1994).

Shapes: B batch; C channels; H, W pixels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from basicsr.utils.registry import LOSS_REGISTRY

Reduction = Literal["mean", "sum"]


def reduce_loss(loss: Tensor, reduction: Reduction) -> Tensor:
    """Elementwise loss, any shape -> scalar."""
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction: got {reduction!r}, expected 'mean' or 'sum'")
    return loss.mean() if reduction == "mean" else loss.sum()


@LOSS_REGISTRY.register()
class L1Loss(nn.Module):
    """loss_weight * mean |pred - target|."""

    def __init__(self, loss_weight: float = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.reduction = reduction

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """(B, C, H, W) twice -> weighted scalar."""
        return self.loss_weight * reduce_loss((pred - target).abs(), self.reduction)


@LOSS_REGISTRY.register()
class MSELoss(nn.Module):
    """loss_weight * mean (pred - target)^2."""

    def __init__(self, loss_weight: float = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.reduction = reduction

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """(B, C, H, W) twice -> weighted scalar."""
        return self.loss_weight * reduce_loss((pred - target).square(), self.reduction)


@LOSS_REGISTRY.register()
class CharbonnierLoss(nn.Module):
    """loss_weight * mean sqrt((pred - target)^2 + eps): L1 with a gradient of 0, not a jump, at equality.

    Args:
        eps: how rounded the corner at equality is.
    """

    def __init__(self, loss_weight: float = 1.0, reduction: Reduction = "mean", eps: float = 1e-12) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.reduction = reduction
        self.eps = eps

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """(B, C, H, W) twice -> weighted scalar."""
        return self.loss_weight * reduce_loss(torch.sqrt((pred - target).square() + self.eps), self.reduction)
