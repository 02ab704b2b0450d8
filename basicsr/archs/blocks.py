"""Blocks that the VQGAN and CodeFormer are built from: normalisation, residual, attention and resampling blocks.

Parameter names and arithmetic are those of the released CodeFormer weights (Zhou et al. 2022), which so load by name.

Shapes: B batch; C, Cin, Cout channels; H, W feature size; L tokens; Q queries; N keys; d width
of a head.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from basicsr.archs.group_norm import ChannelsLastGroupNorm, is_channels_last

RELEASED_GROUPS = 32


def run_block(block: Callable[..., Tensor], *inputs: Any, checkpointing: bool) -> Tensor:
    """block(*inputs). `checkpointing`: its features are not kept but computed again in the backward (Chen et al. 2016);
    values and gradients are the same. The block must not draw random numbers.
    """
    if checkpointing and torch.is_grad_enabled():
        output: Tensor = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
        return output
    return block(*inputs)


def is_autocast(x: Tensor) -> bool:
    """Whether operations on x run under autocast now."""
    return torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)


def out_of_autocast(x: Tensor) -> Tensor:
    """x in float32 where autocast is on; else as it is, since weights may be of half precision themselves."""
    return x.float() if is_autocast(x) else x


def at_least_float32(x: Tensor) -> Tensor:
    """x for sums that half precision would spoil, whatever the weights are; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def run_in_float32(block: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """block(x), out of autocast."""
    if not is_autocast(x):
        return block(x)
    with torch.autocast(x.device.type, enabled=False):
        return block(x.float())


def num_groups(channels: int) -> int:
    """Groups of a GroupNorm: 32 wherever a group then holds 2 channels (all released widths), else about channels // 4.

    With fewer than 2 channels a group would be an instance norm, which hides the level of every channel.
    """
    if channels % RELEASED_GROUPS == 0 and channels >= 2 * RELEASED_GROUPS:
        return RELEASED_GROUPS
    groups = max(1, min(RELEASED_GROUPS, channels // 4))
    while channels % groups:
        groups -= 1
    return groups


class Normalize(nn.GroupNorm):
    """GroupNorm with the released eps 1e-6."""

    def __init__(self, channels: int) -> None:
        super().__init__(num_groups(channels), channels, eps=1e-6, affine=True)

    def forward(self, x: Tensor, reuse: bool = False) -> Tensor:
        """x (B, C, H, W) -> the same shape. `reuse`: nobody reads x again; without a backward it is overwritten."""
        learns = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        ours = x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and learns)
        if x.device.type != "cpu" or not ours or self.weight.dtype != torch.float32 or not is_channels_last(x):
            return super().forward(x)
        return ChannelsLastGroupNorm.apply(x, self.weight, self.bias, self.num_groups, self.eps, reuse and not learns)


def swish_(x: Tensor) -> Tensor:
    """x * sigmoid(x), in place where no backward needs x: fresh memory of 64 MB costs as much time as the sums."""
    return F.silu(x, inplace=not x.requires_grad)


class ResBlock(nn.Module):
    """h = conv2(swish(norm2(conv1(swish(norm1 x))))); out = h + x, or h + conv_out(x) where the width changes."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = Normalize(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, 1, 1)
        self.norm2 = Normalize(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1)
        self.conv_out = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(swish_(self.norm1(x)))  # (B, Cin, H, W) -> (B, Cout, H, W)
        h = self.conv2(swish_(self.norm2(h, reuse=True)))
        return h.add_(x if self.conv_out is None else self.conv_out(x))


class AttnBlock(nn.Module):
    """Single-head self-attention over the H*W positions: out = x + proj_out(softmax(q k^T / sqrt(C)) v)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = Normalize(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (
            conv(h).flatten(2).transpose(1, 2).unsqueeze(1) for conv in (self.q, self.k, self.v)
        )  # (B, 1, HW, C)
        h = F.scaled_dot_product_attention(q, k, v)
        h = h.squeeze(1).transpose(1, 2).reshape(x.shape)  # (B, 1, HW, C) -> (B, C, H, W)
        return x + self.proj_out(h)


class Downsample(nn.Module):
    """Half the size: a strided convolution after zero padding on the right and at the bottom only (as released)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # (B, C, H, W) -> (B, C, H/2, W/2)


def share_rows(kernel: Tensor, dim: int) -> Tensor:
    """Kernels with 2 rows in place of the 3 along `dim`, for even and for odd rows of a doubled picture (first axis).

    An even row and the one below it are copies of one row, as are an odd one and the one above.
    """
    above, middle, below = kernel.unbind(dim)
    even, odd = torch.stack([above, middle + below], dim), torch.stack([above + middle, below], dim)
    return torch.stack([even, odd])


def upsample_and_convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution of x doubled (nearest neighbour), without doubling x: 4/9 of the multiplications.

    Of the nine pixels that a kernel sees there, only four differ. Each of the four positions of a result pixel over
    its source has so a 2x2 kernel of sums of `weight`.

    Args:
        x: (B, C, H, W), channels-last.
        weight: (D, C, 3, 3).
    Returns:
        (B, D, 2H, 2W), channels-last.
    """
    kernels = share_rows(share_rows(weight, 3), 3).flatten(0, 2)  # (D, C, 3, 3) -> (2, 2, D, C, 2, 2) -> (4D, C, 2, 2)
    kernels = kernels.contiguous(memory_format=torch.channels_last)
    batch, _, height, width = x.shape
    # every 2x2 window of x in a border of zeros; position (a, b) takes those that begin a rows below, b columns right
    windows = F.conv2d(x, kernels, None if bias is None else bias.repeat(4), padding=1)  # (B, 4D, H+1, W+1)
    windows = windows.permute(0, 2, 3, 1).unflatten(3, (2, 2, -1))  # (B, H+1, W+1, 2, 2, D)
    result = windows.new_empty(batch, height, 2, width, 2, windows.shape[-1])
    for a in range(2):
        for b in range(2):
            result[:, :, a, :, b] = windows[:, a : a + height, b : b + width, a, b]
    return result.view(batch, 2 * height, 2 * width, -1).permute(0, 3, 1, 2)


class Upsample(nn.Module):
    """Twice the size: nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W)"""
        wants_grad = torch.is_grad_enabled() and (x.requires_grad or self.conv.weight.requires_grad)
        if x.device.type == "cpu" and is_channels_last(x) and not wants_grad:
            return upsample_and_convolve(x, self.conv.weight, self.conv.bias)
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def adaptive_instance_norm(content: Tensor, style: Tensor, eps: float = 1e-5) -> Tensor:
    """Give `content` the mean and the standard deviation that `style` has in each sample and channel.

    out = (c - mean_c) / std_c * std_s + mean_s, with std = sqrt(unbiased variance + eps) (Huang and Belongie 2017).

    Args:
        content, style: (B, C, H, W), any range.
    """
    content_var, content_mean = torch.var_mean(at_least_float32(content), dim=(2, 3), keepdim=True)  # (B, C, 1, 1)
    style_var, style_mean = torch.var_mean(at_least_float32(style), dim=(2, 3), keepdim=True)
    scale = ((style_var + eps) / (content_var + eps)).sqrt()
    return ((content - content_mean) * scale + style_mean).to(content.dtype)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, L, C) -> (B, heads, L, C/heads)"""
    return x.unflatten(2, (num_heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, L, C/heads) -> (B, L, C)"""
    return x.transpose(1, 2).flatten(2)


class Attention(NamedTuple):
    """A multi-head attention before its softmax."""

    q: Tensor  # (B, heads, Q, d)
    k: Tensor  # (B, heads, N, d)
    v: Tensor  # (B, heads, N, d)
    bias: Tensor  # (B, 1, 1, N): added to the logits; -inf: no key
    num_away: int  # how many of the first keys are no identity

    def mix(self) -> Tensor:
        """softmax(q k^T / sqrt(d) + bias) v, (B, Q, heads * d)"""
        return merge_heads(F.scaled_dot_product_attention(self.q, self.k, self.v, attn_mask=self.bias))
