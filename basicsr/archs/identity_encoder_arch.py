"""Identity of the references as tokens for the code transformer and as one vector for the decoder's style.

A frozen recogniser gives a unit vector and its last feature map for each reference photo. Both become tokens: several,
as in IP-Adapter (Ye et al. 2023), since attention over a single key is a constant. Several references are the union of
their tokens, with a mask and without any order.

Shapes: B batch; R references; E width of the identity embedding; Cm, h, w feature map; L image tokens; C token width;
Tv, Tm tokens of one reference from the vector and from the map, T = Tv + Tm.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.archs.blocks import Attention, merge_heads, split_heads
from basicsr.archs.kv_share import ReferenceCache, ReferencePhotos
from basicsr.utils.errors import OptionError

MIN_QUALITY = 1e-6  # log of it is still finite


class IdentityFeatures(NamedTuple):
    """What the recogniser says of the references; a sample whose mask row is all False has none."""

    embed: Tensor  # (B, R, E), unit length
    feature_map: Tensor  # (B, R, Cm, h, w)
    mask: Tensor  # (B, R) bool: a reference, not padding
    quality: Tensor  # (B, R) in (0, 1]
    photos: ReferencePhotos | ReferenceCache | None = None  # what `inject: kv_share` reads; the rest needs none


class IdentityTokens(NamedTuple):
    """Keys and values for the cross-attention."""

    tokens: Tensor  # (B, R*T, C)
    key_bias: Tensor  # (B, R*T): added to the attention logits; -inf on padding
    has_ref: Tensor  # (B,) bool


def mean_embedding(identity: IdentityFeatures) -> Tensor:
    """Quality-weighted mean of the reference embeddings, scaled to unit length, (B, E); zero without a reference."""
    weight = identity.quality.masked_fill(~identity.mask, 0.0).unsqueeze(-1)  # (B, R, 1)
    embed = identity.embed.masked_fill(~identity.mask.unsqueeze(-1), 0.0)
    return F.normalize((embed * weight).sum(1), dim=-1)  # (B, R, E) -> (B, E)


def reference_bias(quality: Tensor, mask: Tensor) -> Tensor:
    """log quality - log(number of references), (B, R), for the keys of each reference; -inf on padding.

    In a softmax the keys of one photo given twice so count as those of the photo given once.

    Args:
        quality: (B, R) in (0, 1].
        mask: (B, R) bool.
    """
    num_valid = mask.sum(1, keepdim=True).clamp_min(1)  # (B, 1)
    bias = quality.clamp_min(MIN_QUALITY).log() - num_valid.to(quality.dtype).log()
    return bias.masked_fill(~mask, -torch.inf)


def sinusoidal_position(channels: int, height: int, width: int) -> Tensor:
    """Fixed 2-D position encoding (height*width, channels): sines and cosines of y, then of x (Vaswani et al. 2017)."""
    quarter = channels // 4
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(quarter) / quarter)  # (C/4,)
    angles_y = torch.arange(height)[:, None] * frequencies  # (h, C/4)
    angles_x = torch.arange(width)[:, None] * frequencies  # (w, C/4)
    of_y = torch.cat([angles_y.sin(), angles_y.cos()], dim=1)[:, None].expand(height, width, 2 * quarter)
    of_x = torch.cat([angles_x.sin(), angles_x.cos()], dim=1)[None].expand(height, width, 2 * quarter)
    return torch.cat([of_y, of_x], dim=2).flatten(0, 1)  # (h, w, C) -> (h*w, C)


class MapResampler(nn.Module):
    """Feature map of the recogniser -> a few tokens: learned queries attend once to its positions."""

    def __init__(self, map_shape: Sequence[int], num_tokens: int, dim: int, num_heads: int) -> None:
        super().__init__()
        channels, height, width = map_shape
        self.num_heads = num_heads
        self.norm_map = nn.LayerNorm(channels)  # recognisers differ in the scale of their maps
        self.map_emb = nn.Linear(channels, dim)
        self.queries = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_tokens, dim)))
        self.k = nn.Linear(dim, dim, bias=False)
        self.v = nn.Linear(dim, dim, bias=False)
        self.proj_out = nn.Linear(dim, dim)
        self.register_buffer("position", sinusoidal_position(dim, height, width), persistent=False)  # (h*w, C)

    def forward(self, feature_map: Tensor) -> Tensor:
        """(N, Cm, h, w) -> (N, num_tokens, C)"""
        cells = self.map_emb(self.norm_map(feature_map.flatten(2).transpose(1, 2)))  # (N, Cm, h, w) -> (N, hw, C)
        q = self.queries.to(cells.dtype).expand(cells.shape[0], -1, -1)
        k = self.k(cells + self.position.to(cells.dtype))
        q, k, v = (split_heads(part, self.num_heads) for part in (q, k, self.v(cells)))  # (N, heads, ., C/heads)
        return self.proj_out(merge_heads(F.scaled_dot_product_attention(q, k, v)))


class IdentityEncoder(nn.Module):
    """References -> identity tokens.

    Args:
        embed_dim, map_shape: E and (Cm, h, w) of the recogniser.
        dim: token width C.
        num_heads: of the resampler.
        num_vec_tokens: tokens made from the embedding by an MLP.
        num_map_tokens: tokens resampled from the feature map; 0 leaves the map out.
    """

    def __init__(
        self,
        embed_dim: int,
        map_shape: Sequence[int],
        dim: int,
        num_heads: int,
        num_vec_tokens: int,
        num_map_tokens: int,
    ) -> None:
        super().__init__()
        if num_vec_tokens < 0 or num_map_tokens < 0 or num_vec_tokens + num_map_tokens == 0:
            raise OptionError(
                f"num_vec_tokens: {num_vec_tokens} with num_map_tokens {num_map_tokens} makes no identity token. "
                "Take at least one of either, or inject: none"
            )
        if num_map_tokens and (dim % 4 or len(map_shape) != 3):
            raise OptionError(
                f"id_map_shape: {list(map_shape)} with dim_embd {dim}; map tokens need a shape (channels, height, "
                "width) and, for their position encoding, a dim_embd that 4 divides"
            )
        self.embed_dim = embed_dim
        self.map_shape = tuple(map_shape)
        self.dim = dim
        self.num_vec_tokens = num_vec_tokens
        self.num_map_tokens = num_map_tokens
        self.vec_mlp = (
            nn.Sequential(
                nn.Linear(embed_dim, 2 * embed_dim), nn.GELU(), nn.Linear(2 * embed_dim, num_vec_tokens * dim)
            )
            if num_vec_tokens
            else None
        )
        self.map_resampler = MapResampler(map_shape, num_map_tokens, dim, num_heads) if num_map_tokens else None
        self.norm = nn.LayerNorm(dim)

    def forward(self, identity: IdentityFeatures) -> IdentityTokens:
        mask, (batch, num_refs) = identity.mask, identity.mask.shape
        self.check(identity)
        parts = []
        if self.vec_mlp is not None:
            # masked_fill: whatever lies in the padding, NaN included, must not reach the result
            embed = identity.embed.masked_fill(~mask[:, :, None], 0.0)
            # entries of a unit vector have size 1 / sqrt(E); a layer expects about 1
            tokens = self.vec_mlp(embed * math.sqrt(self.embed_dim))  # (B, R, E) -> (B, R, Tv*C)
            parts.append(tokens.view(batch, num_refs, self.num_vec_tokens, self.dim))
        if self.map_resampler is not None:
            feature_map = identity.feature_map.masked_fill(~mask[:, :, None, None, None], 0.0)
            tokens = self.map_resampler(feature_map.flatten(0, 1))  # (B, R, Cm, h, w) -> (B*R, Tm, C)
            parts.append(tokens.view(batch, num_refs, self.num_map_tokens, self.dim))
        tokens = self.norm(torch.cat(parts, dim=2))  # (B, R, T, C)
        return IdentityTokens(tokens.flatten(1, 2), self.key_bias(identity), mask.any(1))

    def check(self, identity: IdentityFeatures) -> None:
        """Features of another recogniser than the one this net was built for."""
        found, expected = [*identity.embed.shape[2:]], [self.embed_dim]
        if self.map_resampler is not None:
            found += identity.feature_map.shape[2:]
            expected += self.map_shape
        if found != expected:
            raise ValueError(
                f"identity: embedding and feature map of sizes {found}, this net was built for {expected} "
                "(id_embed_dim, id_map_shape). Use the recogniser that it was trained with"
            )

    def key_bias(self, identity: IdentityFeatures) -> Tensor:
        """Bias of each token (B, R*T)."""
        bias = reference_bias(identity.quality, identity.mask)
        # a row of -inf alone would make the softmax NaN; what such a sample attends to is dropped by has_ref
        bias = bias.masked_fill(~identity.mask.any(1, keepdim=True), 0.0)
        return bias.repeat_interleave(self.num_vec_tokens + self.num_map_tokens, dim=1)  # (B, R) -> (B, R*T)


class ConstantIdentity(nn.Module):
    """Learned tokens and a learned style vector in the place of the references', the same for everybody.

    The control of an experiment: cross-attention and style then have their parameters and know nothing of the person.

    Args:
        embed_dim: E. 0 makes no style vector.
        dim: token width C.
        num_tokens: as many as one reference has; 0 makes none.
    """

    def __init__(self, embed_dim: int, dim: int, num_tokens: int) -> None:
        super().__init__()
        # of size 1 in each entry, as the normalised tokens of references are
        self.tokens = nn.Parameter(torch.randn(num_tokens, dim)) if num_tokens else None
        self.embed = nn.Parameter(torch.randn(embed_dim)) if embed_dim else None

    def identity_tokens(self, batch: int) -> IdentityTokens | None:
        """Keys and values of `batch` samples; None where no tokens are learned."""
        if self.tokens is None:
            return None
        bias = self.tokens.new_zeros(batch, len(self.tokens))
        return IdentityTokens(self.tokens.expand(batch, -1, -1), bias, bias.new_ones(batch, dtype=torch.bool))

    def style_vector(self, batch: int) -> tuple[Tensor, Tensor]:
        """The vector at unit length for each sample (B, E), and that all of them have one (B,)."""
        if self.embed is None:
            raise ValueError("this net was built without a style, so there is no vector for it")
        embed = F.normalize(self.embed, dim=0).expand(batch, -1)
        return embed, torch.ones(batch, dtype=torch.bool, device=embed.device)


def constant_for(inject: str, style: str, embed_dim: int, dim: int, num_tokens: int) -> ConstantIdentity:
    """Constants for the parts that are there; OptionError for inject: kv_share, which reads photos."""
    if inject == "kv_share":
        raise OptionError("identity_source: constant has no photos for inject: kv_share to read")
    reads_vector = style != "none" or inject == "token_map"
    return ConstantIdentity(embed_dim if reads_vector else 0, dim, num_tokens if inject == "cross_attn" else 0)


class IdentityTokenMap(nn.Module):
    """What an identity V adds to each image token: a map linear in V, zero at the start.

    Each place of the face has weights of its own from the first step on. Attention to identity tokens could say as
    much, but on LFW it did not learn to in a short training (docs/results.md).

    Args:
        embed_dim: E.
        dim: token width C.
        grid: side of the grid on which the map is predicted; it is interpolated to the tokens.
        width: side of the grid of image tokens.
    """

    SCALE = 3.0  # of the unit vector: docs/results.md was measured with it; no other was tried

    def __init__(self, embed_dim: int, dim: int, grid: int, width: int) -> None:
        super().__init__()
        self.grid, self.width = grid, width
        self.proj = nn.Linear(embed_dim, dim * grid * grid, bias=False)
        nn.init.zeros_(self.proj.weight)

    def forward(self, embed: Tensor, has_ref: Tensor) -> Tensor:
        """V (B, E) at unit length -> (L, B, C); exactly zero for a sample whose has_ref (B,) is False."""
        field = self.proj(embed * self.SCALE).unflatten(1, (-1, self.grid, self.grid))  # (B, E) -> (B, C, grid, grid)
        if self.grid != self.width:
            field = F.interpolate(field, (self.width, self.width), mode="bilinear")
        field = torch.where(has_ref[:, None, None, None], field, field.new_zeros(()))
        return field.flatten(2).permute(2, 0, 1)  # (B, C, h, w) -> (L, B, C)


class IdentityCrossAttention(nn.Module):
    """Pre-norm cross-attention from image tokens to identity tokens, zero at the start.

    With `use_null_key` there is one more key, learned, whose value is zero: image tokens can look away from the
    identity. A sample without reference gets exactly zero, whatever the weights.
    """

    def __init__(self, dim: int, num_heads: int, use_null_key: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.q = nn.Linear(dim, dim, bias=False)
        self.k = nn.Linear(dim, dim, bias=False)
        self.v = nn.Linear(dim, dim, bias=False)
        self.proj_out = nn.Linear(dim, dim, bias=False)
        nn.init.zeros_(self.proj_out.weight)
        self.null_key = nn.Parameter(torch.zeros(dim)) if use_null_key else None

    def forward(self, x: Tensor, identity: IdentityTokens) -> Tensor:
        """Image tokens x (L, B, C) -> what is added to them (L, B, C)."""
        out = self.proj_out(self.project(x, identity).mix()).transpose(0, 1)  # (B, L, C) -> (L, B, C)
        return torch.where(identity.has_ref[None, :, None], out, out.new_zeros(()))

    def project(self, x: Tensor, identity: IdentityTokens) -> Attention:
        """The attention of image tokens x (L, B, C) to the null key, if there is one, and the identity's."""
        q = self.q(self.norm(x)).transpose(0, 1)  # (L, B, C) -> (B, L, C)
        k, v, bias = self.k(identity.tokens), self.v(identity.tokens), identity.key_bias
        if self.null_key is not None:
            k = torch.cat([self.null_key.to(k.dtype).expand(k.shape[0], 1, -1), k], dim=1)  # (B, 1 + R*T, C)
            v = F.pad(v, (0, 0, 1, 0))  # zero after the value projection
            bias = F.pad(bias, (1, 0))
        q, k, v = (split_heads(part, self.num_heads) for part in (q, k, v))  # (B, heads, ., C/heads)
        return Attention(q, k, v, bias[:, None, None, :].to(q.dtype), num_away=int(self.null_key is not None))
