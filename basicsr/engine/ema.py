"""Exponential moving average of a network: parameters and buffers."""

from __future__ import annotations

import copy

import torch
from torch import nn


class ModelEma:
    """`e <- decay * e + (1 - decay) * p` for parameters and floating buffers; integer buffers are copied.

    Args:
        net: starts as a copy of this network (without its DDP wrapper).
        decay: in [0, 1); 0 keeps a plain copy.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, net: nn.Module, moved: torch.Tensor | None = None) -> None:
        """Move the average towards `net`.

        Args:
            moved: scalar on the device, 1 or 0: whether `net` has taken its step; None: it has. The device alone knows
                with float16, and is not waited for.
        """
        own, new = _floating(self.net), _floating(net)
        if moved is None:
            torch._foreach_lerp_(own, new, 1 - self.decay)
        else:
            share = (1 - self.decay) * moved
            for mine, theirs in zip(own, new, strict=True):
                mine.lerp_(theirs, share)
        for mine, theirs in zip(self.net.buffers(), net.buffers(), strict=True):
            if not mine.is_floating_point():
                mine.copy_(theirs)


def _floating(net: nn.Module) -> list[torch.Tensor]:
    """Parameters and floating buffers of `net`, in their fixed order."""
    return [*net.parameters(), *(buffer for buffer in net.buffers() if buffer.is_floating_point())]
