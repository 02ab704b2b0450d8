"""Identity loss: how far the restored face is from being recognised as the person of the ground truth.

ArcFace cosine (Deng et al. 2019) of a frozen recogniser, as face restoration uses it: 1 - cos(E(restored), E(gt)).

Shapes: B samples; S side of the face.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from basicsr.utils.errors import OptionError
from basicsr.utils.registry import LOSS_REGISTRY


@LOSS_REGISTRY.register()
class IdentityLoss(nn.Module):
    """Mean of 1 - cos, stopped where the person is already recognised.

    Args:
        network_identity: frozen recogniser, faces (B, 3, S, S) in [-1, 1] -> tuple with `embedding` (B, E), unit.
        loss_weight: factor on the loss.
        margin: samples with cos >= margin give no gradient (their value stays 1 - margin); None: all do.
        every: the loss is due at every n-th iteration, since decoding a picture for it is the cost.
        batch_part: share of the batch that is decoded for it, in (0, 1].
    Raises:
        OptionError: an argument is out of its range.
    """

    def __init__(
        self,
        network_identity: nn.Module,
        loss_weight: float = 0.1,
        margin: float | None = None,
        every: int = 1,
        batch_part: float = 1.0,
    ) -> None:
        super().__init__()
        if every < 1 or not 0 < batch_part <= 1 or (margin is not None and not -1 < margin <= 1):
            raise OptionError(
                f"IdentityLoss: every={every}, batch_part={batch_part}, margin={margin}; expected every >= 1, "
                "0 < batch_part <= 1 and -1 < margin <= 1 (or ~)."
            )
        self.network_identity = network_identity
        self.loss_weight = loss_weight
        self.margin = margin
        self.every = every
        self.batch_part = batch_part

    def is_due(self, current_iter: int) -> bool:
        """Whether this iteration computes the loss."""
        return current_iter % self.every == 0

    def num_samples(self, batch_size: int) -> int:
        """How many samples of a batch are decoded for the loss, at least one."""
        return max(1, math.ceil(self.batch_part * batch_size))

    def forward(self, restored: Tensor, gt: Tensor) -> Tensor:
        """Both RGB [-1, 1] (B, 3, S, S), the same samples. Returns a weighted scalar; `gt` gets no gradient."""
        with torch.no_grad():
            target = self.network_identity(gt).embedding
        cosine = (self.network_identity(restored).embedding * target).sum(1)  # (B, E) -> (B,)
        if self.margin is not None:
            cosine = torch.where(cosine < self.margin, cosine, cosine.new_tensor(self.margin))
        return self.loss_weight * (1 - cosine).mean()
