"""Optimisers and learning rates. A learning rate is a function of the iteration alone, so resuming needs no state.

Equations: upstream's schedulers (multi-step, cosine with restarts) and linear warm-up; see docs/deviations.md.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from basicsr.config.optim_options import (
    AdamOptions,
    AdamWOptions,
    CosineOptions,
    MultiStepOptions,
    OptimOptions,
    SchedulerOptions,
)
from basicsr.utils.errors import OptionError


def build_optimizer(net: nn.Module, options: OptimOptions) -> torch.optim.Optimizer:
    """An optimiser over the parameters of `net` that require a gradient."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    if not parameters:
        raise OptionError("network_g.fix_modules: names all of network_g, so there is nothing to train.")
    # fused also skips a step that is not finite without waiting for the device, see GradientSteps
    fused = options.fused if options.fused is not None else not options.foreach
    ways: dict[str, Any] = {
        "weight_decay": options.weight_decay,
        "fused": fused,
        "foreach": None if fused else options.foreach,
    }
    if isinstance(options, AdamOptions):
        return torch.optim.Adam(parameters, options.lr, options.betas, **ways)
    if isinstance(options, AdamWOptions):
        return torch.optim.AdamW(parameters, options.lr, options.betas, **ways)
    return torch.optim.SGD(parameters, options.lr, options.momentum, **ways)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def learning_rate_at(
    current_iter: int, base_lr: float, schedule: SchedulerOptions | None, warmup_iter: int = -1
) -> float:
    """Learning rate of iteration `current_iter` (1-based).

    Warm-up is linear, base_lr * t / warmup_iter for t < warmup_iter. Schedules count from 0: iteration t is step t - 1.
    """
    if current_iter < warmup_iter:
        return base_lr * current_iter / warmup_iter
    step = current_iter - 1
    if isinstance(schedule, MultiStepOptions):
        return base_lr * schedule.gamma ** sum(step >= milestone for milestone in schedule.milestones)
    if isinstance(schedule, CosineOptions):
        return _cosine(step, base_lr, schedule)
    return base_lr


def _cosine(step: int, base_lr: float, schedule: CosineOptions) -> float:
    """Cosine annealing with restarts (Loshchilov & Hutter 2017, eq. 5); past the last period eta_min, where the run may
    go on after a longer total_iter."""
    start = 0
    for period, weight in zip(schedule.periods, schedule.restart_weights, strict=True):
        if step <= start + period:
            cosine = 1 + math.cos(math.pi * (step - start) / period)
            return schedule.eta_min + weight / 2 * (base_lr - schedule.eta_min) * cosine
        start += period
    return schedule.eta_min
