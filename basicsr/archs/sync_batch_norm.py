"""Batch normalisation over the batches of all ranks, on any device and backend. Paper: Ioffe & Szegedy 2015.

Torch's own SyncBatchNorm is for CUDA alone. With this one a run on several ranks trains the discriminator that one rank
with the whole batch would.

Shapes: B batch of this rank; C channels; H, W feature size; R ranks.
"""

from typing import Any

import torch
from torch import Tensor, nn

from basicsr.utils.dist_util import all_gather_tensor, all_reduce_sum, world_size

OVER_PIXELS = (0, 2, 3)  # of (B, C, H, W)


class _NormalizeOverRanks(torch.autograd.Function):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias, moments of all ranks' samples in float32 or better."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x (B, C, H, W) -> y of its shape and type; mean and biased variance (C,); count of values per channel."""
        variance, mean = torch.var_mean(x.float(), OVER_PIXELS, correction=0)
        own = torch.cat([mean, variance, torch.full_like(mean[:1], x.numel() / x.shape[1])]).double()
        means, variances, counts = all_gather_tensor(own).split(
            [len(mean), len(mean), 1], dim=1
        )  # (R, C), (R, C), (R, 1)
        count = counts.sum()
        mean = (means * counts).sum(0) / count
        variance = ((variances + (means - mean).square()) * counts).sum(0) / count
        inverse_std = (variance + eps).rsqrt()
        gain = inverse_std * weight
        offset = bias - mean * gain
        mean, variance, inverse_std, count = (value.float() for value in (mean, variance, inverse_std, count))
        ctx.save_for_backward(x, weight, mean, inverse_std, count)
        ctx.mark_non_differentiable(mean, variance, count)
        y = torch.addcmul(_per_channel(offset.float()), x.float(), _per_channel(gain.float()))
        return y.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of x through the moments of all ranks; those of weight and bias are this rank's, DDP averages."""
        x, weight, mean, inverse_std, count = ctx.saved_tensors
        gradient = grad_outputs[0].float()
        normalised = (x.float() - _per_channel(mean)) * _per_channel(inverse_std)
        for_bias = gradient.sum(OVER_PIXELS)
        for_weight = (gradient * normalised).sum(OVER_PIXELS)
        mean_bias, mean_weight = (all_reduce_sum(torch.stack([for_bias, for_weight])) / count).unbind()
        centred = gradient - _per_channel(mean_bias) - normalised * _per_channel(mean_weight)
        return (centred * _per_channel(weight * inverse_std)).to(x.dtype), for_weight, for_bias, None


def _per_channel(values: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, 1)"""
    return values[None, :, None, None]


class SyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d, same keys; in training its moments are those of the batches of all ranks together.

    All ranks must call it, forward and backward, in the same order. On one rank it is BatchNorm2d itself.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> the same shape."""
        if not self.training or world_size() == 1:
            return super().forward(x)
        return self._over_ranks(x)

    def _over_ranks(self, x: Tensor) -> Tensor:
        y, mean, variance, count = _NormalizeOverRanks.apply(x, self.weight, self.bias, self.eps)
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)  # unbiased, as BatchNorm2d keeps it
        return y


def leave_ranks_uncompiled() -> None:
    """Let compiled graphs break at the moments of all ranks; to be called before a network is compiled.

    No decorator, since that one imports the compiler: seconds at the start of every program.
    """
    SyncBatchNorm2d._over_ranks = torch.compiler.disable(SyncBatchNorm2d._over_ranks)  # type: ignore[method-assign]
