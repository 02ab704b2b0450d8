"""One iteration of a stage: losses, gradients, steps of the optimisers, the averaged weights.

The loop around it (data, checkpoints, logs, signals) is in `basicsr/engine/trainer.py`.

Shapes: B images of one iteration on this rank; n parts (`train.accumulate`) of B/n.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from basicsr.config.options import TrainOptions
from basicsr.engine.accumulation import DeferredGan, MeanOfParts, channels_last, parts_of
from basicsr.engine.ema import ModelEma
from basicsr.engine.finite_guard import FiniteGuard, NonFiniteLossError, report
from basicsr.engine.optim import build_optimizer, learning_rate_at, set_learning_rate
from basicsr.models.base_model import BaseModel, Batch, Losses
from basicsr.utils.dist_util import bare_net, without_sync

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
FIRST_LOSS_SCALE = 2.0**16  # of float16; the scaler halves it until the gradients fit


class GradientSteps:
    """The optimisers of a stage and what they do in an iteration.

    Every precision goes through a GradScaler: it leaves a step out on the device where a gradient is not finite, with
    fused optimisers without a word to the CPU. Only for float16 is its scale another one than 1.

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
        self.is_fp16 = options.precision == "fp16"
        self.scaler = torch.amp.GradScaler(stage.device.type, FIRST_LOSS_SCALE if self.is_fp16 else 1.0)
        self.max_norms = {"g": options.clip_grad_norm, "d": options.clip_grad_norm_d}
        self.guard = FiniteGuard()
        self._bad = torch.zeros((), device=stage.device)  # 1 once a step of this iteration was not finite

    def iterate(self, batch: Batch, current_iter: int) -> tuple[Losses, Batch, Tensor | None]:
        """One iteration: the generator's step, then the discriminator's where there are pictures to judge.

        A step that is not finite changes no weight; `require_finite` tells of it.

        Returns:
            Losses and figures for the log, still on the device; a part of the batch and its restored pictures, if any.
        """
        self._set_learning_rates(current_iter)
        self.stage.figures = {}
        self._bad = torch.zeros_like(self._bad)
        if self.options.channels_last:
            batch = channels_last(batch)
        parts = parts_of(batch, self.options.accumulate)
        with self._autocast():
            self.stage.before_iteration(batch, current_iter)
        with self._finite_buffers():
            losses, restored = self._step_g(parts, batch, current_iter)
            if self.ema is not None:
                self.ema.update(bare_net(self.stage.net_g), self._moved_g())
            if restored and self.stage.trains_discriminator(current_iter):
                losses |= self._step_d(parts, restored, batch, current_iter)
        self.scaler.update(None if self.is_fp16 else 1.0)
        return losses | self.stage.figures, parts[0], restored[0] if restored else None

    def require_finite(self) -> None:
        """Look at the steps since the last call; all ranks call it.

        Raises:
            NonFiniteLossError: names loss, iteration and samples of the first one that was not finite.
        """
        for record in self.guard.take():
            raise NonFiniteLossError(report(record))

    def _step_g(self, parts: Sequence[Batch], batch: Batch, current_iter: int) -> tuple[Losses, list[Tensor]]:
        """The generator's step; its losses, and the restored pictures of each part, detached."""
        stage, mean, restored = self.stage, MeanOfParts(), []
        stage.loss_scale = self.scaler.scale(torch.ones((), device=stage.device)) if self.is_fp16 else None
        gan = DeferredGan(stage, len(parts), self.scaler) if len(parts) > 1 else None
        self.optimizers["g"].zero_grad(set_to_none=True)
        for number, part in enumerate(parts):
            with without_sync(stage.net_g, number < len(parts) - 1):
                with self._autocast():
                    losses, pictures = stage.generator_losses(part, current_iter)
                deferred = {} if gan is None else gan.take()
                self._backward(losses, len(parts))
            mean.add(losses | deferred, stage.figures)
            if pictures is not None:
                restored.append(pictures.detach())
        losses, stage.figures = mean.values()
        if gan is not None:
            losses = gan.finish(losses)
        self._apply("g", stage.net_g, losses, batch, current_iter)
        return losses, restored

    def _step_d(self, parts: Sequence[Batch], restored: Sequence[Tensor], batch: Batch, current_iter: int) -> Losses:
        """The discriminator's step on the pictures that the generator's step restored."""
        stage, mean = self.stage, MeanOfParts()
        assert stage.net_d is not None
        self.optimizers["d"].zero_grad(set_to_none=True)
        for number, (part, pictures) in enumerate(zip(parts, restored, strict=True)):
            with without_sync(stage.net_d, number < len(parts) - 1):
                with self._autocast():
                    losses = stage.discriminator_losses(pictures, part["gt"])
                self._backward(losses, len(parts))
            mean.add(losses, stage.figures)
        losses, stage.figures = mean.values()
        self._apply("d", stage.net_d, losses, batch, current_iter)
        return losses

    def _backward(self, losses: Losses, num_parts: int) -> None:
        """Backward of the sum of the losses of one part. A loss that is not finite spoils the whole gradient, so that
        after the averaging no rank takes the step; nor the discriminator's that would follow."""
        total = torch.stack(list(losses.values())).sum()
        good = total.detach().isfinite() & (self._bad == 0)
        direction = torch.where(good, 1.0 / num_parts, torch.nan)
        torch.autograd.backward(self.scaler.scale(total), direction)

    def _apply(self, which: str, net: nn.Module, losses: Losses, batch: Batch, current_iter: int) -> None:
        """Unscale, clip and take the step; the norm of the gradient goes to the figures."""
        optimizer, largest = self.optimizers[which], self.max_norms[which]
        self.scaler.unscale_(optimizer)
        if largest is not None:
            norm = clip_grad_norm_(net.parameters(), largest)
        else:
            norm = get_total_norm([p.grad for p in net.parameters() if p.grad is not None])
        self.stage.figures[f"grad_norm_{which}"] = norm
        self._bad = self.guard.note(current_iter, f"network_{which}", losses, norm, batch, self.is_fp16)
        self.scaler.step(optimizer)

    def _moved_g(self) -> Tensor | None:
        """Whether the generator's step was taken, 1 or 0, the same on all ranks.

        None where a step that is not taken ends the run: neither skipped nor an overflow of scaled gradients.
        """
        if self.is_fp16 or self.options.skip_non_finite:
            return self.stage.figures["grad_norm_g"].isfinite().float()
        return None

    def _autocast(self) -> torch.autocast:
        dtype = HALF.get(self.options.precision)
        return torch.autocast(self.stage.device.type, dtype, enabled=dtype is not None)

    @contextmanager
    def _finite_buffers(self) -> Iterator[None]:
        """Running moments of the discriminator that were finite stay so."""
        net_d = self.stage.net_d
        buffers = [] if net_d is None else [buffer for buffer in net_d.buffers() if buffer.is_floating_point()]
        before = [buffer.clone() for buffer in buffers]
        yield
        for buffer, old in zip(buffers, before, strict=True):
            buffer.copy_(torch.where(buffer.isfinite(), buffer, old))

    def _set_learning_rates(self, current_iter: int) -> None:
        for name, optimizer in self.optimizers.items():
            schedule, warmup = self.options.scheduler, self.options.warmup_iter
            set_learning_rate(optimizer, learning_rate_at(current_iter, self.base_lrs[name], schedule, warmup))
