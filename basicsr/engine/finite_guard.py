"""Notices losses and gradients that are not finite without waiting for the device in every step.

A step that is not finite is left out on the device itself (see GradientSteps), so the weights stay good; what happened
is read where the run reads the device anyway: at a line of the log, before a checkpoint, before a validation.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from basicsr.models.base_model import Batch, Losses
from basicsr.utils.dist_util import all_reduce_sum
from basicsr.utils.errors import UserError


class NonFiniteLossError(UserError):
    """A loss or gradient is NaN or infinite."""


class StepRecord(NamedTuple):
    """What one step of an optimiser was made of."""

    current_iter: int
    net: str  # network_g or network_d
    losses: Losses
    grad_norm: Tensor
    bad: Tensor  # scalar, 1 where the step was not finite
    paths: list[str]  # samples of this rank


class FiniteGuard:
    """Keeps the records of the steps that have not been looked at."""

    def __init__(self) -> None:
        self.records: list[StepRecord] = []

    def note(
        self, current_iter: int, net: str, losses: Losses, grad_norm: Tensor, batch: Batch, overflow_is_normal: bool
    ) -> Tensor:
        """Remember a step; nothing is read from the device. Returns its `bad`.

        Args:
            overflow_is_normal: gradients may be infinite, as with scaled float16 losses; the losses may not.
        """
        losses = {name: value.detach() for name, value in losses.items()}
        finite = torch.stack(list(losses.values())).isfinite().all()
        if not overflow_is_normal:
            finite = finite & grad_norm.isfinite()
        self.records.append(StepRecord(current_iter, net, losses, grad_norm, (~finite).float(), batch["gt_path"]))
        return self.records[-1].bad

    def take(self) -> list[StepRecord]:
        """The steps since the last call that were not finite, on some rank; all ranks call it and agree."""
        records, self.records = self.records, []
        if not records:
            return []
        bad = all_reduce_sum(torch.stack([record.bad for record in records])).tolist()
        return [record for record, ranks in zip(records, bad, strict=True) if ranks > 0]


def report(record: StepRecord) -> str:
    """One line for a step that was not finite: which loss, which iteration, which samples."""
    values = {name: value.item() for name, value in record.losses.items()}
    found = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
    norm = record.grad_norm.item()
    if not found and not math.isfinite(norm):
        found = [f"the gradient of {record.net} (norm {norm})"]
    what = ", ".join(found) or "a loss on another rank"
    return (
        f"iteration {record.current_iter}: {what} is not finite; the samples were {', '.join(record.paths)}. "
        "The last checkpoint is untouched; try a lower learning rate or train.clip_grad_norm."
    )
