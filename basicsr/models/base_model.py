"""What the three stages share: their networks and losses, the weighing of losses, the discriminator's step.

A stage says which networks see which pictures and which losses follow; the loop is in `basicsr/engine/trainer.py`.
Shapes: B batch; H, W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from basicsr.archs.self_encoder_arch import SelfEncoder
from basicsr.losses.gan_loss import AdaptiveGanWeight
from basicsr.losses.identity_loss import IdentityLoss
from basicsr.recognizers import Recognizer
from basicsr.utils.dist_util import bare_net, wrap_ddp
from basicsr.utils.errors import OptionError
from basicsr.utils.signature import require_within

Batch = dict[str, Any]
Losses = dict[str, Tensor]

LOG_NAMES = {
    "pixel": "l_g_pix",
    "perceptual": "l_g_percep",
    "gan": "l_g_gan",
    "code": "l_g_code",
    "feat": "l_g_feat",
    "identity": "l_g_id",
}


@dataclass
class Networks:
    """The networks of a stage. `vqgan`, `identity` (a recogniser) and `self_encoder` (its E_LQ) are frozen."""

    g: nn.Module
    d: nn.Module | None = None
    vqgan: nn.Module | None = None
    identity: Recognizer | None = None
    self_encoder: SelfEncoder | None = None


class GanTerm(NamedTuple):
    """The generator's GAN loss before its adaptive weight, and what decides on that."""

    recon: Tensor  # L_pix + L_percep
    gan: Tensor
    last_layer: Tensor
    factor: float  # of this iteration, on the weighted loss


class BaseModel:
    """A training stage.

    `defer_gan` and `loss_scale` are the engine's: with `defer_gan`, generator_losses leaves l_g_gan out and puts its
    parts into `gan_term`, since the weight of an accumulated batch is known only after the last part of it.

    Args:
        networks: built and loaded, on the CPU.
        losses: by the name of their option without `_opt` ("pixel", "gan", ...), already built from the YAML.
        device: where everything moves.
        net_d_start_iter: the discriminator is trained, and its loss used, after this iteration.
        disc_weight: factor on the adaptive GAN weight.
    """

    REQUIRED_NETWORKS: ClassVar[frozenset[str]] = frozenset()
    ALLOWED_LOSSES: ClassVar[frozenset[str]] = frozenset()
    # DDP has to look for parameters without a gradient where an iteration does not use all of them
    FIND_UNUSED_PARAMETERS: ClassVar[bool] = False

    def __init__(
        self,
        networks: Networks,
        losses: Mapping[str, nn.Module],
        device: torch.device,
        net_d_start_iter: int = 0,
        disc_weight: float = 0.8,
    ) -> None:
        self.device = device
        self.losses = {name: loss.to(device) for name, loss in losses.items()}
        if "gan" in self.losses and networks.d is None:
            raise OptionError("train.gan_opt: a GAN loss needs network_d, which is not given.")
        self.net_g = wrap_ddp(networks.g.to(device).train(), device, self.FIND_UNUSED_PARAMETERS)
        self.net_d = None
        if networks.d is not None:
            self.net_d = wrap_ddp(networks.d.to(device).train(), device, find_unused=False)
        # frozen nets stay outside DDP, in eval, without gradients on their weights
        self.vqgan = None if networks.vqgan is None else networks.vqgan.to(device).eval().requires_grad_(False)
        self.identity = None if networks.identity is None else networks.identity.to(device)
        self.self_encoder = None if networks.self_encoder is None else networks.self_encoder.to(device)
        self.net_d_start_iter = net_d_start_iter
        self.disc_weight = disc_weight
        self.factors: Mapping[str, float] = {}  # on the losses of this iteration; 1 where none is given
        self.figures: dict[str, Tensor] = {}  # detached scalars beside the losses, for the log
        self.defer_gan = False
        self.gan_term: GanTerm | None = None
        self.loss_scale: Tensor | None = None  # see AdaptiveGanWeight

    @classmethod
    def check_arguments(cls, arguments: Mapping[str, Any]) -> None:
        """Refuse a range or combination that the types allow; the option file's check calls it, nothing is built yet.

        Args:
            arguments: of the stage, converted to their types; one that has its default may be missing.
        Raises:
            OptionError: `name: found ..., expected ...`.
        """
        require_within(0, net_d_start_iter=arguments.get("net_d_start_iter"), disc_weight=arguments.get("disc_weight"))

    def generator_losses(self, batch: Batch, current_iter: int) -> tuple[Losses, Tensor | None]:
        """Weighted losses that train net_g, and the pictures that the discriminator may judge (None: none here)."""
        raise NotImplementedError

    def before_iteration(self, batch: Batch, current_iter: int) -> None:
        """What has to happen once in an iteration, however many parts its batch is computed in."""

    def describe(self, current_iter: int) -> str:
        """What iteration `current_iter` does, in a few words; iterations that do the same have the same words."""
        trains_d, due = self.trains_discriminator(current_iter), self.identity_is_due(current_iter)
        return ", ".join(["pictures", *(["L_ids"] if due else []), *(["discriminator"] if trains_d else [])])

    def check_start(self, batch: Batch) -> None:
        """Look at the first batch of a run for what would make the training worthless, and say it in the log."""

    def costly_figures(self, batch: Batch) -> Losses:
        """Scalars of one batch, computed only where a line of the log is printed; means over the ranks."""
        return {}

    def restore(self, batch: Batch, net: nn.Module) -> Tensor:
        """Pictures (B, 3, H, W) that `net` (the EMA copy of net_g, as a rule) makes of a validation batch."""
        raise NotImplementedError

    def weigh(self, **terms: tuple[Any, ...] | None) -> Losses:
        """Call each loss that the YAML built with its term; a term that is None, or not in the YAML, is not computed.

        Returns:
            Scalars under the names of the log (`l_g_pix`, ...), weighted by each loss's own `loss_weight` and by the
            factor of this iteration, computed in float32; with a factor of 0 a loss is not computed.
        """
        with torch.autocast(self.device.type, enabled=False):
            return {
                LOG_NAMES[name]: self.factors.get(name, 1.0) * self.losses[name](*map(in_float32, arguments))
                for name, arguments in terms.items()
                if arguments is not None and name in self.losses and self.factors.get(name, 1.0) > 0
            }

    def identity_samples(self, batch: Batch, current_iter: int) -> int:
        """How many samples L_ids wants to see restored in this iteration; 0: it is not due."""
        if not self.identity_is_due(current_iter):
            return 0
        return cast(IdentityLoss, self.losses["identity"]).num_samples(len(batch["gt"]))

    def identity_is_due(self, current_iter: int) -> bool:
        """Whether this iteration computes L_ids."""
        loss = cast("IdentityLoss | None", self.losses.get("identity"))
        return loss is not None and loss.is_due(current_iter)

    def gan_loss(self, restored: Tensor, losses: Losses, last_layer: Tensor, current_iter: int) -> Losses:
        """GAN loss times the adaptive weight (Esser et al. 2021, eq. 7); {} before the discriminator starts.

        Args:
            losses: of this iteration; the reconstruction side of the ratio is L_pix + L_percep.
            last_layer: tensor in the graph of both sides, at which the gradients are compared.
        """
        if "gan" not in self.losses or not self.trains_discriminator(current_iter):
            return {}
        assert self.net_d is not None  # the constructor has refused a GAN loss without it
        net_d = bare_net(self.net_d).requires_grad_(False)  # this step trains the generator alone
        gan = self.losses["gan"](net_d(restored).float(), True, is_disc=False)
        net_d.requires_grad_(True)
        recon = [losses[name] for name in ("l_g_pix", "l_g_percep") if name in losses]
        factor = self.factors.get("gan", 1.0)
        if not recon:
            self.figures["d_weight"] = torch.full_like(gan.detach(), self.disc_weight)
            return {"l_g_gan": factor * self.disc_weight * gan}
        term = GanTerm(torch.stack(recon).sum(), gan, last_layer, factor)
        if self.defer_gan:
            self.gan_term = term
            return {}
        balance = self.new_gan_weight()
        balance.add(term.recon, term.gan, term.last_layer)
        self.figures["d_weight"] = balance.value()
        return {"l_g_gan": factor * self.figures["d_weight"] * gan}

    def new_gan_weight(self) -> AdaptiveGanWeight:
        """Takes GanTerms and gives the weight of the GAN loss."""
        return AdaptiveGanWeight(self.disc_weight, self.loss_scale)

    def trains_discriminator(self, current_iter: int) -> bool:
        """Whether the discriminator takes part in this iteration."""
        return self.net_d is not None and "gan" in self.losses and current_iter > self.net_d_start_iter

    def discriminator_losses(self, restored: Tensor, gt: Tensor) -> Losses:
        """Losses that train net_d. Real and fake stay two forwards, so that BatchNorm sees each by itself."""
        assert self.net_d is not None
        real, fake = self.net_d(gt).float(), self.net_d(restored.detach()).float()
        self.figures |= {"out_d_real": real.detach().mean(), "out_d_fake": fake.detach().mean()}
        return {
            "l_d_real": self.losses["gan"](real, True, is_disc=True),
            "l_d_fake": self.losses["gan"](fake, False, is_disc=True),
        }


def in_float32(value: Any) -> Any:
    """A tensor of half precision as float32; anything else as it is."""
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
