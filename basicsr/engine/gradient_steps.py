"""One iteration of a stage: losses, gradients, steps of the optimisers, the averaged weights.

The loop around it (data, checkpoints, logs, signals) is in `basicsr/engine/trainer.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from basicsr.config.options import TrainOptions
from basicsr.engine.ema import ModelEma
from basicsr.engine.optim import build_optimizer, learning_rate_at, set_learning_rate
from basicsr.models.base_model import BaseModel, Batch, Losses
from basicsr.utils.dist_util import bare_net
from basicsr.utils.errors import UserError


class NonFiniteLossError(UserError):
    """A loss is NaN or infinite."""


class GradientSteps:
    """The optimisers of a stage and what they do in an iteration.

    Args:
        stage: built and on the device.
        options: `train:` of the run.
    """

    def __init__(self, stage: BaseModel, options: TrainOptions) -> None:
        self.stage, self.options = stage, options
        self.optimizers = {"g": build_optimizer(stage.net_g, options.optim_g)}
        self.base_lrs = {"g": options.optim_g.lr}
        if stage.net_d is not None and options.optim_d is not None:
            self.optimizers["d"] = build_optimizer(stage.net_d, options.optim_d)
            self.base_lrs["d"] = options.optim_d.lr
        self.ema = None if options.ema_decay is None else ModelEma(bare_net(stage.net_g), options.ema_decay)

    def iterate(self, batch: Batch, current_iter: int) -> tuple[Losses, Tensor | None]:
        """One iteration: the generator's step, then the discriminator's where there are pictures to judge.

        Returns:
            Losses and figures for the log, still on the device; the restored pictures, if any.
        Raises:
            NonFiniteLossError: names loss, iteration and samples; the weights are those before the iteration.
        """
        self._set_learning_rates(current_iter)
        self.stage.figures.clear()
        losses, restored = self.stage.generator_losses(batch, current_iter)
        self._step("g", self.stage.net_g, losses, batch, current_iter)
        if self.ema is not None:
            self.ema.update(bare_net(self.stage.net_g))
        if restored is not None and self.stage.net_d is not None and self.stage.trains_discriminator(current_iter):
            d_losses = self.stage.discriminator_losses(restored.detach(), batch["gt"])
            self._step("d", self.stage.net_d, d_losses, batch, current_iter)
            losses |= d_losses
        return losses | self.stage.figures, restored

    def _step(self, which: str, net: nn.Module, losses: Losses, batch: Batch, current_iter: int) -> None:
        """Backward of the sum of the losses and one step of the optimiser."""
        total = torch.stack(list(losses.values())).sum()
        if not math.isfinite(total.item()):
            raise NonFiniteLossError(_non_finite_report(losses, batch, current_iter))
        optimizer = self.optimizers[which]
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        if which == "g" and self.options.clip_grad_norm is not None:
            clip_grad_norm_(net.parameters(), self.options.clip_grad_norm)
        optimizer.step()

    def _set_learning_rates(self, current_iter: int) -> None:
        for name, optimizer in self.optimizers.items():
            schedule, warmup = self.options.scheduler, self.options.warmup_iter
            set_learning_rate(optimizer, learning_rate_at(current_iter, self.base_lrs[name], schedule, warmup))


def _non_finite_report(losses: Losses, batch: Batch, current_iter: int) -> str:
    values = {name: value.item() for name, value in losses.items()}
    bad = ", ".join(f"{name} = {value}" for name, value in values.items() if not math.isfinite(value))
    return (
        f"iteration {current_iter}: {bad or values} is not finite; the samples were "
        f"{', '.join(batch['gt_path'])}. The last checkpoint is untouched; try a lower learning rate or "
        "train.clip_grad_norm."
    )
