"""GroupNorm for channels-last features on a CPU, as accurate as that for plain ones. Paper: Wu and He 2018.

PyTorch's own sums every group in one run of float32 additions there: at 512 px the picture moves by 2e-4. Here each
column is summed by itself, and the columns are brought together in float64.

Shapes: B batch; C channels; H, W feature size; G groups.
"""

from typing import Any

import torch
from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    """Whether x (B, C, H, W) is stored with the channels innermost, and not in the plain order as well."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def group_moments(x: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each group of a channels-last x (B, C, H, W), each (B, G) float64."""
    batch, channels, height, width = x.shape
    columns = x.permute(0, 2, 3, 1).reshape(batch, height, width * channels)  # a view: W*C is what lies side by side
    moments = [torch.batch_norm_update_stats(sample.t()[None, :, :, None], None, None, 0.0) for sample in columns]
    split = (batch, width, num_groups, channels // num_groups)
    means = torch.stack([mean for mean, _ in moments]).double().view(split)
    variances = torch.stack([variance for _, variance in moments]).double().view(split)
    mean = means.mean((1, 3))  # (B, W, G, C/G) -> (B, G)
    return mean, (variances + (means - mean[:, None, :, None]).square()).mean((1, 3))


class ChannelsLastGroupNorm(torch.autograd.Function):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias, statistics of each sample and group."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float, overwrite: bool
    ) -> Tensor:
        """x (B, C, H, W) float32, channels-last -> the same shape and layout; `overwrite`: into the memory of x."""
        mean, variance = group_moments(x, num_groups)
        inverse_std = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean.to(x.dtype), inverse_std.to(x.dtype))
        ctx.num_groups = num_groups
        per_group = x.shape[1] // num_groups
        gain = inverse_std.repeat_interleave(per_group, 1) * weight  # (B, G) -> (B, C)
        offset = bias - mean.repeat_interleave(per_group, 1) * gain
        gain, offset = (value.to(x.dtype)[:, :, None, None] for value in (gain, offset))
        return torch.addcmul(offset, x, gain, out=x) if overwrite else torch.addcmul(offset, x, gain)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight and bias."""
        x, weight, mean, inverse_std = ctx.saved_tensors
        batch, channels, height, width = x.shape
        gradient = grad_outputs[0].contiguous(memory_format=torch.channels_last)
        gradients = torch.ops.aten.native_group_norm_backward(
            gradient, x, mean, inverse_std, weight, batch, channels, height * width, ctx.num_groups, [True] * 3
        )
        return (*gradients, None, None, None)
