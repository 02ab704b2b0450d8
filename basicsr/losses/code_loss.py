"""Losses that teach the code prediction. Paper: Zhou et al. 2022 (CodeFormer), eq. 5 and 6.

Shapes: B batch; L = h*w tokens; K codes; D code width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.utils.registry import LOSS_REGISTRY


@LOSS_REGISTRY.register()
class CodeCrossEntropyLoss(nn.Module):
    """Cross-entropy of the predicted code of every token: -loss_weight * mean log softmax(logits)[code_idx]."""

    def __init__(self, loss_weight: float = 0.5) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, logits: Tensor, code_idx: Tensor) -> Tensor:
        """logits (B, L, K), code_idx (B, L) int64 -> weighted scalar."""
        return self.loss_weight * F.cross_entropy(logits.flatten(0, 1), code_idx.flatten())  # (B*L, K), (B*L,)


@LOSS_REGISTRY.register()
class CodeFeatureLoss(nn.Module):
    """loss_weight * mean (lq_feat - gt_feat)^2; the target is detached: the codes do not move towards the LQ."""

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, lq_feat: Tensor, gt_feat: Tensor) -> Tensor:
        """(B, D, h, w) encoder features of the LQ, quantised features of the GT -> weighted scalar."""
        return self.loss_weight * F.mse_loss(lq_feat, gt_feat.detach())
