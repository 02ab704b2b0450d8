"""GroupNorm for channels-last features on a CPU, as accurate as that for plain ones. Paper: Wu and He 2018.

PyTorch's own sums every group in one run of float32 additions there: at 512 px the picture moves by 2e-4. Here each
column is summed by itself, and the columns are brought together in float64. Its backward is slow there as well, in bf16
above all: a third of a step of stage III.

Shapes: B batch; C channels; H, W feature size; G groups.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CACHED_VALUES = 2**16  # that each thread works on at a time: a quarter MB in float32


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


def gradient_sums(gradient: Tensor, x: Tensor, mean: Tensor, inverse_std: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over the pixels of gradient * (x - mean) * inverse_std, and of gradient: each (B, C) float64.

    Args:
        gradient, x: (B, C, H, W) channels-last.
        mean, inverse_std: (B, C), float32 for features in bf16.
    """
    batch, channels, height, width = x.shape
    scaled, plain = [], []
    for k in range(batch):
        rows = [part[k].permute(1, 2, 0).reshape(height, -1).t()[None, :, :, None] for part in (gradient, x)]  # views
        center, scale = mean[k].repeat(width), inverse_std[k].repeat(width)
        # the kernel of batch normalisation, one "channel" for each column, as in group_moments
        _, for_weight, for_bias = torch.ops.aten.native_batch_norm_backward(
            *rows, scale, None, None, center, scale, True, 0.0, [False, True, True]
        )
        scaled.append(for_weight.double().view(width, channels).sum(0))
        plain.append(for_bias.double().view(width, channels).sum(0))
    return torch.stack(scaled), torch.stack(plain)


def combine(gradient: Tensor, x: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """gradient * a + x * b + c for channels-last features (B, C, H, W) and a, b, c (B, C), computed in their type.

    In strips that stay in the cache: whole features in float32 beside those in bf16 would be most of the time. A
    compiler does the same with the plain formula.
    """
    if torch.compiler.is_compiling():
        a, b, c = (part[:, :, None, None] for part in (a, b, c))
        return (gradient.to(a.dtype) * a + (x.to(a.dtype) * b + c)).to(gradient.dtype)
    batch, channels, height, width = x.shape
    out = torch.empty_like(gradient)
    pixels = [part.permute(0, 2, 3, 1).reshape(batch, height * width, channels) for part in (gradient, x, out)]  # views
    step = max(1, CACHED_VALUES * torch.get_num_threads() // channels)
    total, term = (a.new_empty(min(step, height * width), channels) for _ in range(2))
    for k in range(batch):
        for gradients, values, results in zip(*(part[k].split(step) for part in pixels), strict=True):
            sums, terms = total[: len(results)], term[: len(results)]
            sums.copy_(values)
            terms.copy_(gradients)
            torch.addcmul(c[k], sums, b[k], out=sums).addcmul_(terms, a[k])
            results.copy_(sums)
    return out


class ChannelsLastGroupNorm(torch.autograd.Function):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias, statistics of each sample and group.

    In bf16 the forward is torch's own, whose statistics are in float32; its backward takes five times as long as this.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float, overwrite: bool
    ) -> Tensor:
        """x (B, C, H, W) channels-last, float32 or bf16 -> its shape, layout and type; weight and bias (C,) float32.

        `overwrite`: into the memory of x, in float32 alone.
        """
        ctx.num_groups = num_groups
        if x.dtype == torch.bfloat16:
            batch, channels, height, width = x.shape
            y, mean, inverse_std = torch.native_group_norm(
                x, weight, bias, batch, channels, height * width, num_groups, eps
            )
            ctx.save_for_backward(x, weight, mean, inverse_std)
            return y
        mean, variance = group_moments(x, num_groups)
        inverse_std = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean.to(x.dtype), inverse_std.to(x.dtype))
        per_group = x.shape[1] // num_groups
        gain = inverse_std.repeat_interleave(per_group, 1) * weight  # (B, G) -> (B, C)
        offset = bias - mean.repeat_interleave(per_group, 1) * gain
        gain, offset = (value.to(x.dtype)[:, :, None, None] for value in (gain, offset))
        return torch.addcmul(offset, x, gain, out=x) if overwrite else torch.addcmul(offset, x, gain)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight and bias, of the first order alone.

        With n = (x - mean) * inverse_std and g = gradient * weight, means over the group:
        dx = inverse_std * (g - mean(g) - n * mean(g * n)), which is gradient * a + x * b + c for each channel.
        """
        x, weight, *moments = ctx.saved_tensors
        gradient = grad_outputs[0].contiguous(memory_format=torch.channels_last)
        batch, channels, height, width = x.shape
        per_group = channels // ctx.num_groups
        mean, inverse_std = (part.to(weight.dtype).repeat_interleave(per_group, 1) for part in moments)  # (B, C)
        for_weight, for_bias = gradient_sums(gradient, x, mean, inverse_std)
        mean_scaled, mean_plain = (
            (part * weight)
            .view(batch, -1, per_group)
            .sum(2)
            .div(per_group * height * width)
            .repeat_interleave(per_group, 1)
            for part in (for_weight, for_bias)
        )  # (B, C), equal within a group
        b = -inverse_std.double().square() * mean_scaled
        c = -inverse_std * mean_plain - b * mean
        for_x = None
        if ctx.needs_input_grad[0]:
            for_x = combine(gradient, x, inverse_std * weight, b.to(weight.dtype), c.to(weight.dtype))
        return for_x, for_weight.sum(0).to(weight.dtype), for_bias.sum(0).to(weight.dtype), None, None, None
