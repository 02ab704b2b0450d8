"""Sharing of keys and values: the image's self-attention also sees the tokens of the reference photos.

Paper: Hsiao et al. 2024 (ReF-LDM), CacheKV: the references pass through the same layers as the image, and each layer's
self-attention gets their keys and values of that very layer. So a query meets keys of its own depth, made by the same
weights; tokens of one depth in all layers would be foreign to all of them but one.

Shapes: B batch; R references; L tokens of one picture; C token width; H, W pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.archs.blocks import Attention, split_heads


class ReferencePhotos(NamedTuple):
    """Pictures that the network reads itself."""

    images: Tensor  # (B, R, 3, H, W) RGB [-1, 1], of the network's size
    mask: Tensor  # (B, R) bool: a photo to read; neither padding nor the degraded photo itself


class ReferenceCache(NamedTuple):
    """What `IDCodeFormer.reference_cache` has read from the photos; good for any number of faces of these people."""

    keys: tuple[Tensor, ...]  # of each layer, (B, R, L, C); zero where `mask` is False
    values: tuple[Tensor, ...]  # the same
    mask: Tensor  # (B, R) bool


class SharedKeys(NamedTuple):
    """What one layer sees of the references."""

    keys: Tensor  # (B, R*L, C)
    values: Tensor  # (B, R*L, C)
    key_bias: Tensor  # (B, R*L): added to the attention logits; -inf on padding
    has_ref: Tensor  # (B,) bool


def placed_cache(layers: Sequence[tuple[Tensor, Tensor]], mask: Tensor) -> ReferenceCache:
    """Keys and values of N photos, two of (N, L, C) per layer, where `mask` (B, R) is True, N times."""
    keys: list[Tensor] = []
    values: list[Tensor] = []
    for of_layer in layers:
        for kept, found in zip((keys, values), of_layer, strict=True):
            placed = found.new_zeros(*mask.shape, *found.shape[1:])
            placed[mask] = found  # (N, L, C) -> (B, R, L, C)
            kept.append(placed)
    return ReferenceCache(tuple(keys), tuple(values), mask)


def shared_keys(cache: ReferenceCache, reference_bias: Tensor) -> list[SharedKeys]:
    """What each layer sees of the references.

    Args:
        reference_bias: (B, R), see `identity_encoder_arch.reference_bias`, for the mask of the cache.
    """
    num_tokens = cache.keys[0].shape[2]
    # the image's own keys are always there, so a row of -inf for the references alone is harmless
    bias = reference_bias.masked_fill(~cache.mask, -torch.inf).repeat_interleave(num_tokens, dim=1)  # (B, R*L)
    has_ref = cache.mask.any(1)
    return [
        SharedKeys(keys.flatten(1, 2), values.flatten(1, 2), bias, has_ref)
        for keys, values in zip(cache.keys, cache.values, strict=True)
    ]


def project_keys(attn: nn.MultiheadAttention, h: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values that `attn` makes of normalised tokens h (L, B, C): two of (B, L, C)."""
    _, w_key, w_value = attn.in_proj_weight.chunk(3)
    _, b_key, b_value = attn.in_proj_bias.chunk(3)
    keys = F.linear(h + position, w_key, b_key)
    values = F.linear(h, w_value, b_value)  # the position goes to queries and keys only
    return keys.transpose(0, 1), values.transpose(0, 1)  # (L, B, C) -> (B, L, C)


class KeyValueShare(nn.Module):
    """out = A_self + tanh(a) (A_self+ref - A_self), with a learned scalar a that is zero at the start.

    A_self is CodeFormer's self-attention, untouched; A_self+ref is the same attention, with the same weights, over the
    image's and the references' tokens. No weight is added but a.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, attn: nn.MultiheadAttention, h: Tensor, position: Tensor, shared: SharedKeys) -> Tensor:
        """A_self+ref (L, B, C).

        Args:
            attn: the layer's self-attention.
            h: the image's normalised tokens (L, B, C).
            position: (L, 1, C).
        """
        return attn.out_proj(self.project(attn, h, position, shared).mix()).transpose(0, 1)  # (B, L, C) -> (L, B, C)

    @staticmethod
    def project(attn: nn.MultiheadAttention, h: Tensor, position: Tensor, shared: SharedKeys) -> Attention:
        """The attention of the image's tokens to their own keys, which come first, and to those of the references."""
        w_query, b_query = attn.in_proj_weight[: attn.embed_dim], attn.in_proj_bias[: attn.embed_dim]
        q = F.linear(h + position, w_query, b_query).transpose(0, 1)  # (L, B, C) -> (B, L, C)
        k, v = project_keys(attn, h, position)
        k = torch.cat([k, shared.keys.to(k.dtype)], dim=1)  # (B, L + R*L, C)
        v = torch.cat([v, shared.values.to(v.dtype)], dim=1)
        bias = F.pad(shared.key_bias, (h.shape[0], 0)).to(q.dtype)  # no bias on the image's own
        q, k, v = (split_heads(part, attn.num_heads) for part in (q, k, v))
        return Attention(q, k, v, bias[:, None, None, :], num_away=h.shape[0])

    def gated(self, change: Tensor, shared: SharedKeys) -> Tensor:
        """tanh(a) * change (L, B, C); exactly zero for a sample without reference."""
        change = self.gate.tanh() * change
        return torch.where(shared.has_ref[None, :, None], change, change.new_zeros(()))
