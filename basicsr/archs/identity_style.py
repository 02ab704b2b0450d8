"""Second half of IA-CFT: the style that an identity gives to a feature of the decoder.

Shapes: B batch; Cf feature channels; h, w feature size; E width of the identity embedding.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.archs.blocks import at_least_float32

StyleMode = Literal["adain", "film", "adain_mean"]
STYLES = ("adain", "film", "adain_mean", "none")


class IdentityStyle(nn.Module):
    """Second half of IA-CFT: what the identity V adds to the decoder feature F_d, on top of the CFT.

    delta = g(F_d, F_e) * S, with dgamma, dbeta = tanh(MLP(V)) (zero at the start), g a one-channel gate in (0, 1), and
    adain:      S = dgamma * (F_d - mu) / sigma + dbeta
    film:       S = dgamma * F_d + dbeta
    adain_mean: S = dbeta - dgamma * mu                 (only the mean of F_d moves)
    mu, sigma: of F_d in each sample and channel. With a grid, dgamma and dbeta are maps: predicted on grid x grid cells
    and interpolated, so that an eye may be told another thing than a chin (as SPADE's maps, Park et al. 2019, which
    come from a segmentation).
    """

    def __init__(self, channels: int, embed_dim: int, mode: StyleMode, grid: int = 1) -> None:
        super().__init__()
        self.mode, self.grid = mode, grid
        self.embed_scale = embed_dim**0.5  # entries of a unit vector have size 1 / sqrt(E); a layer expects about 1
        head = nn.Linear(embed_dim, 2 * channels * grid * grid)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        self.mlp = nn.Sequential(nn.Linear(embed_dim, embed_dim), nn.SiLU(), head)
        self.gate_dec = nn.Conv2d(channels, 1, 3, 1, 1)
        self.gate_enc = nn.Conv2d(channels, 1, 3, 1, 1, bias=False)

    def forward(self, dec_feat: Tensor, enc_feat: Tensor, embed: Tensor, has_ref: Tensor) -> Tensor:
        """delta (B, Cf, h, w), exactly zero for a sample without reference.

        Args:
            dec_feat, enc_feat: F_d and F_e (B, Cf, h, w).
            embed: V (B, E), unit length.
            has_ref: (B,) bool.
        """
        style = self.mlp(embed * self.embed_scale).tanh()  # (B, E) -> (B, 2Cf*grid*grid)
        style = style.unflatten(1, (-1, self.grid, self.grid))  # -> (B, 2Cf, grid, grid)
        style = torch.where(has_ref[:, None, None, None], style, style.new_zeros(()))
        if self.grid > 1:
            style = F.interpolate(style, dec_feat.shape[-2:], mode="bilinear")  # -> (B, 2Cf, h, w)
        gain, offset = style.chunk(2, dim=1)
        gate = torch.sigmoid(self.gate_dec(dec_feat) + self.gate_enc(enc_feat))  # (B, Cf, h, w) -> (B, 1, h, w)
        # float32, also where the weights are of half precision: at a mean of 20 sigma the offset is a difference of
        # large numbers, and bfloat16 would be 5 % off
        feat = at_least_float32(dec_feat)
        gain, offset = gain.to(feat.dtype), offset.to(feat.dtype)
        if self.mode != "film":
            var, mean = torch.var_mean(feat, dim=(2, 3), correction=0, keepdim=True)  # (B, Cf, 1, 1)
            if self.mode == "adain":
                gain = gain * (var + 1e-5).rsqrt()
            offset = offset - gain * mean
            if self.mode == "adain_mean":
                return (gate * offset).to(dec_feat.dtype)
        # the normalisation is folded in: one pass over F_d
        return (gate * torch.addcmul(offset, gain, feat)).to(dec_feat.dtype)


def add_style(
    dec_feat: Tensor, cft: Callable[[Tensor], Tensor] | None, delta: Callable[[Tensor], Tensor], w_id: float
) -> Tensor:
    """CFT(F_d) + w_id * delta(F_d), without the CFT where there is none; F_d = dec_feat (B, Cf, h, w)."""
    fused = dec_feat if cft is None else cft(dec_feat)
    return torch.add(fused, delta(dec_feat), alpha=w_id)
