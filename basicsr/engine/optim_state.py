"""The state of an optimiser in a checkpoint: held against the optimiser before a run goes on with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

# what each optimiser keeps for a tensor from its first step on; SGD makes up for a momentum that is not there
NEEDED = {"Adam": {"step", "exp_avg", "exp_avg_sq"}, "AdamW": {"step", "exp_avg", "exp_avg_sq"}, "SGD": set[str]()}
OPTIONAL = {"Adam": {"max_exp_avg_sq"}, "AdamW": {"max_exp_avg_sq"}, "SGD": {"momentum_buffer"}}


def optimizer_misfit(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> str | None:
    """Why a saved state cannot be that of `optimizer`; None where it can. torch finds out at the first step only.

    Args:
        saved: a `state_dict()`; one of another program may raise KeyError, TypeError or AttributeError.
    """
    tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    if len(numbers) != len(tensors):
        return f"it is of {len(numbers)} tensors, here {len(tensors)} are trained"
    for number, tensor in zip(numbers, tensors, strict=True):
        moments = saved["state"].get(number)
        if moments is None:  # no step has moved this tensor yet
            continue
        kind = type(optimizer).__name__
        lacking, foreign = NEEDED[kind] - moments.keys(), moments.keys() - NEEDED[kind] - OPTIONAL[kind]
        if lacking or foreign:
            what = f"has no {', '.join(sorted(lacking))}" if lacking else f"has {', '.join(sorted(foreign))}"
            return f"tensor {number} {what}: the state of another kind of optimiser than {kind}"
        for name, value in moments.items():
            if isinstance(value, torch.Tensor) and value.dim() > 0 and value.shape != tensor.shape:
                return f"{name} of tensor {number} has shape {list(value.shape)}, expected {list(tensor.shape)}"
    return None


def load_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Take over the moments; betas, decay and the kind of kernel are those of the options, not of the saved run."""
    optimizer.load_state_dict({**optimizer.state_dict(), "state": saved["state"]})
