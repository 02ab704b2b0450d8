"""Adversarial losses and the adaptive weight that balances them with the reconstruction.

Papers: Lim & Ye 2017 (hinge), Goodfellow et al. 2014 (vanilla), Mao et al. 2017 (lsgan), Arjovsky et al. 2017 (wgan),
Esser et al. 2021 (adaptive weight). Shapes: B batch; logits of a patch discriminator (B, 1, h, w), any shape works.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.utils.dist_util import all_reduce_mean, world_size
from basicsr.utils.registry import LOSS_REGISTRY

ADAPTIVE_WEIGHT_EPS = 1e-4


@LOSS_REGISTRY.register()
class GANLoss(nn.Module):
    """One adversarial term, for the generator or the discriminator.

    Discriminator, hinge: mean relu(1 - D(real)) and mean relu(1 + D(fake)); generator: -mean D(fake).
    `loss_weight` multiplies the generator's term only: the discriminator has its own optimiser.

    Args:
        gan_type: which adversarial loss.
        real_label_val, fake_label_val: targets of vanilla and lsgan; the others have none.
    """

    def __init__(
        self,
        gan_type: Literal["hinge", "vanilla", "lsgan", "wgan", "wgan_softplus"] = "hinge",
        loss_weight: float = 1.0,
        real_label_val: float = 1.0,
        fake_label_val: float = 0.0,
    ) -> None:
        super().__init__()
        if gan_type not in ("hinge", "vanilla", "lsgan", "wgan", "wgan_softplus"):
            raise ValueError(f"gan_type: got {gan_type!r}, expected hinge, vanilla, lsgan, wgan or wgan_softplus")
        self.gan_type = gan_type
        self.loss_weight = loss_weight
        self.real_label_val = real_label_val
        self.fake_label_val = fake_label_val

    def forward(self, logits: Tensor, target_is_real: bool, is_disc: bool = False) -> Tensor:
        """Discriminator logits, any shape -> scalar; the generator asks for `target_is_real=True` on its fakes."""
        if self.gan_type == "hinge":
            loss = self._hinge(logits, target_is_real, is_disc)
        elif self.gan_type == "wgan":
            loss = -logits.mean() if target_is_real else logits.mean()
        elif self.gan_type == "wgan_softplus":
            loss = F.softplus(-logits if target_is_real else logits).mean()
        else:
            label = torch.full_like(logits, self.real_label_val if target_is_real else self.fake_label_val)
            if self.gan_type == "vanilla":
                loss = F.binary_cross_entropy_with_logits(logits, label)
            else:
                loss = F.mse_loss(logits, label)
        return loss if is_disc else self.loss_weight * loss

    @staticmethod
    def _hinge(logits: Tensor, target_is_real: bool, is_disc: bool) -> Tensor:
        if is_disc:
            return F.relu(1 - logits if target_is_real else 1 + logits).mean()
        if not target_is_real:
            raise ValueError("hinge: the generator's term has no 'fake' form; call it with target_is_real=True")
        return -logits.mean()


def adaptive_gan_weight(recon_loss: Tensor, gan_loss: Tensor, last_layer: Tensor, disc_weight: float = 0.8) -> Tensor:
    """Scale that gives the GAN term the gradient size of the reconstruction (Esser et al. 2021, eq. 7).

    disc_weight * clamp(||d recon / d W|| / (||d gan / d W|| + 1e-4), 0, 1), Frobenius norms of the gradients that one
    rank with the whole batch would have: a mean of per-rank ratios would be another number.

    Args:
        recon_loss, gan_loss: scalars that still hold their graph, means over this rank's batch.
        last_layer: W, weight of the generator's last layer, any shape; or a tensor of the graph, this rank's own part
            of the batch, such as the restored pictures.
    Returns:
        Detached scalar in [0, disc_weight]. Differs from the paper: the clamp at 1 (paper: none).
    Raises:
        ValueError: one of the losses does not reach `last_layer`, so that there is no ratio.
    """
    recon_norm = _gradient_norm(recon_loss, last_layer, "recon_loss")
    gan_norm = _gradient_norm(gan_loss, last_layer, "gan_loss")
    ratio = recon_norm / (gan_norm + ADAPTIVE_WEIGHT_EPS)
    return disc_weight * ratio.clamp(0.0, 1.0).detach()


def _gradient_norm(loss: Tensor, last_layer: Tensor, name: str) -> Tensor:
    """Scalar norm over the global batch: of a weight ||mean over ranks of d loss / d W||, of a rank's own pictures
    sqrt(sum over ranks of ||d loss / d pictures / world_size||^2)."""
    gradient = None
    if loss.requires_grad and last_layer.requires_grad:
        # retain_graph: the training step still goes backward through both losses
        (gradient,) = torch.autograd.grad(loss, last_layer, retain_graph=True, allow_unused=True)
    if gradient is None:
        raise ValueError(
            f"adaptive_gan_weight: {name} has no gradient at last_layer {tuple(last_layer.shape)} "
            f"(frozen, or the image path is off as with w=0): use a constant weight for this step"
        )
    gradient = gradient.detach().float()  # squares of half-precision gradients underflow
    if last_layer.is_leaf:  # a weight, the same one on every rank
        return all_reduce_mean(gradient).norm()
    # each rank has other pictures: their gradients stand beside each other, and the loss is the mean over the ranks
    return (all_reduce_mean(gradient.square().sum()) / world_size()).sqrt()
