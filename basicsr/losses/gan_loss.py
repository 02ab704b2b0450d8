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


class AdaptiveGanWeight:
    """Scale that gives the GAN term the gradient size of the reconstruction (Esser et al. 2021, eq. 7).

    disc_weight * clamp(||d recon / d W|| / (||d gan / d W|| + 1e-4), 0, 1), Frobenius norms of the gradients that one
    rank with the whole batch would have: they are averaged over the parts of an accumulated batch and over the ranks
    first. A mean of ratios would be another number. Differs from the paper: the clamp at 1 (paper: none).

    Args:
        loss_scale: the gradients are taken of losses times this, against underflow of float16; None: 1.
    """

    def __init__(self, disc_weight: float = 0.8, loss_scale: Tensor | None = None) -> None:
        self.disc_weight = disc_weight
        self.loss_scale = loss_scale
        self.gradients: dict[str, list[Tensor]] = {"recon_loss": [], "gan_loss": []}
        self.at_weight = True

    def add(self, recon_loss: Tensor, gan_loss: Tensor, last_layer: Tensor) -> None:
        """Take the gradients of one part of the batch.

        Args:
            recon_loss, gan_loss: scalars that still hold their graph, means over the part.
            last_layer: W, weight of the generator's last layer, any shape; or a tensor of the graph, this part of the
                batch's own, such as the restored pictures.
        Raises:
            ValueError: one of the losses does not reach `last_layer`, so that there is no ratio.
        """
        self.at_weight = last_layer.is_leaf
        for name, loss in (("recon_loss", recon_loss), ("gan_loss", gan_loss)):
            gradient = None
            if loss.requires_grad and last_layer.requires_grad:
                scaled = loss if self.loss_scale is None else loss * self.loss_scale
                # retain_graph: the training step still goes backward through both losses
                (gradient,) = torch.autograd.grad(scaled, last_layer, retain_graph=True, allow_unused=True)
            if gradient is None:
                raise ValueError(
                    f"adaptive_gan_weight: {name} has no gradient at last_layer {tuple(last_layer.shape)} "
                    f"(frozen, or the image path is off as with w=0): use a constant weight for this step"
                )
            gradient = gradient.detach().float()  # squares of half-precision gradients underflow
            self.gradients[name].append(gradient if self.loss_scale is None else gradient / self.loss_scale)

    def value(self) -> Tensor:
        """Detached scalar in [0, disc_weight], the same on every rank."""
        recon_norm, gan_norm = self._norm("recon_loss"), self._norm("gan_loss")
        ratio = recon_norm / (gan_norm + ADAPTIVE_WEIGHT_EPS)
        if self.loss_scale is not None:
            # scaled gradients may overflow: the scaler then drops this step, and the weight must not stop the run
            ratio = torch.where(ratio.isfinite(), ratio, torch.zeros_like(ratio))
        return self.disc_weight * ratio.clamp(0.0, 1.0)

    def _norm(self, name: str) -> Tensor:
        """Norm over the global batch: of a weight ||mean over parts and ranks of d loss / d W||; of pictures, whose
        gradients stand beside each other, sqrt(sum over parts and ranks of ||d loss / d pictures / their number||^2).
        """
        parts = self.gradients[name]
        if self.at_weight:
            return all_reduce_mean(torch.stack(parts).mean(0)).norm()
        squares = torch.stack([part.square().sum() for part in parts]).sum()
        return (all_reduce_mean(squares) / world_size()).sqrt() / len(parts)


def adaptive_gan_weight(recon_loss: Tensor, gan_loss: Tensor, last_layer: Tensor, disc_weight: float = 0.8) -> Tensor:
    """AdaptiveGanWeight of a batch that is one part, see there."""
    weight = AdaptiveGanWeight(disc_weight)
    weight.add(recon_loss, gan_loss, last_layer)
    return weight.value()
