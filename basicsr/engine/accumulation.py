"""A batch in parts: how it is cut, how figures are averaged, and a GAN weight that is known only after the last part.

Shapes: B images of one iteration on this rank; n parts of B/n.
"""

from __future__ import annotations

import torch
from torch import Tensor

from basicsr.losses.gan_loss import AdaptiveGanWeight
from basicsr.models.base_model import BaseModel, Batch, Losses
from basicsr.utils.dist_util import all_reduce_mean_of, bare_net, world_size


def parts_of(batch: Batch, num_parts: int) -> list[Batch]:
    """The batch in `num_parts` batches. Part j has the samples j, j + n, ...: as ranks share them, so that "the first
    half of the batch" is the same samples however it is cut."""
    if num_parts == 1:
        return [batch]
    return [{key: value[part::num_parts] for key, value in batch.items()} for part in range(num_parts)]


def channels_last(batch: Batch) -> Batch:
    """The batch with its images (B, C, H, W) stored with the channels innermost."""
    return {
        key: value.contiguous(memory_format=torch.channels_last)
        if isinstance(value, Tensor) and value.ndim == 4
        else value
        for key, value in batch.items()
    }


class MeanOfParts:
    """Means over the parts of losses and figures, detached; a name that some parts lack is a mean over the others."""

    def __init__(self) -> None:
        self._values: tuple[dict[str, list[Tensor]], dict[str, list[Tensor]]] = ({}, {})

    def add(self, losses: Losses, figures: Losses) -> None:
        """Take the values of one part."""
        for kept, new in zip(self._values, (losses, figures), strict=True):
            for name, value in new.items():
                kept.setdefault(name, []).append(value.detach())

    def values(self) -> tuple[Losses, Losses]:
        """Losses and figures of the whole batch."""
        losses, figures = (
            {name: torch.stack(values).mean(0) for name, values in kept.items()} for kept in self._values
        )
        return losses, figures


class DeferredGan:
    """The GAN loss of a generator whose batch comes in parts.

    Its adaptive weight is a ratio of gradients of the whole batch, so the gradient of the GAN loss is kept by itself
    until the last part is through: a second backward per part, and the memory of one more gradient.

    Args:
        stage: its generator_losses leave l_g_gan out from now on, until `finish`.
        scaler: of the losses.
    """

    def __init__(self, stage: BaseModel, num_parts: int, scaler: torch.amp.GradScaler) -> None:
        self.stage, self.num_parts, self.scaler = stage, num_parts, scaler
        self.parameters = [p for p in bare_net(stage.net_g).parameters() if p.requires_grad]
        self.gradients: list[Tensor | None] = [None] * len(self.parameters)
        self.weight: AdaptiveGanWeight | None = None
        stage.defer_gan = True

    def take(self) -> Losses:
        """Go backward through the GAN loss of the part that generator_losses has just seen; {} where it has none."""
        term, self.stage.gan_term = self.stage.gan_term, None
        if term is None:
            return {}
        if self.weight is None:
            self.weight = self.stage.new_gan_weight()
        self.weight.add(term.recon, term.gan, term.last_layer)
        scaled = self.scaler.scale(term.factor * term.gan) / self.num_parts
        new = torch.autograd.grad(scaled, self.parameters, retain_graph=True, allow_unused=True)
        self.gradients = [
            old if part is None else part if old is None else old + part
            for old, part in zip(self.gradients, new, strict=True)
        ]
        return {"l_g_gan": term.factor * term.gan}

    def finish(self, losses: Losses) -> Losses:
        """Add weight * gradient to the gradients of the parameters; the losses with their weighted l_g_gan."""
        self.stage.defer_gan = False
        if self.weight is None:
            return losses
        weight = self.weight.value()
        self.stage.figures["d_weight"] = weight
        for parameter, gradient in zip(self.parameters, self._over_ranks(), strict=True):
            if gradient is not None:
                weighted = weight * gradient
                parameter.grad = weighted if parameter.grad is None else parameter.grad.add_(weighted)
        return losses | {"l_g_gan": weight * losses["l_g_gan"]}

    def _over_ranks(self) -> list[Tensor | None]:
        """Means over the ranks. On several of them a missing gradient counts as zero: another rank may have one."""
        if world_size() == 1:
            return self.gradients
        known = [
            torch.zeros_like(parameter) if gradient is None else gradient
            for parameter, gradient in zip(self.parameters, self.gradients, strict=True)
        ]
        return list(all_reduce_mean_of(known))
