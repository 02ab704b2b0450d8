"""Codebooks: nearest code with a straight-through gradient, and Gumbel-softmax.

Papers: van den Oord et al. 2017 (VQ-VAE); Jang et al. 2017 (Gumbel-softmax); Esser et al. 2021 (VQGAN).

Shapes: B batch; D code width; h, w latent grid; K codes; N = B*h*w positions.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.archs.blocks import out_of_autocast, run_in_float32


class QuantizerOutput(NamedTuple):
    """What both quantizers return; the names in `stats` differ between them, see their forward."""

    quant_feat: Tensor  # (B, D, h, w)
    codebook_loss: Tensor  # scalar
    stats: dict[str, Tensor]


def codebook_rows(codebook: Tensor, code_idx: Tensor, shape: tuple[int, int, int, int] | None) -> Tensor:
    """Rows of the codebook (K, D) at N indices: (N, D), or (B, D, h, w) where `shape` is (B, h, w, D)."""
    rows = codebook.index_select(0, code_idx.reshape(-1))  # (N, D)
    if shape is None:
        return rows
    # contiguous: a permuted view is channels-last by accident, and the generator then runs slower and less accurately
    return rows.view(shape).permute(0, 3, 1, 2).contiguous()  # (B, h, w, D) -> (B, D, h, w)


def perplexity(usage: Tensor) -> Tensor:
    """exp of the entropy of the shares (K,) in which codes are used: K where all are used alike, 1 where one is."""
    return torch.exp(-(usage * torch.log(usage + 1e-10)).sum())


class VectorQuantizer(nn.Module):
    """Nearest code of a learned codebook.

    loss = mean((sg[z_q] - z)^2) + beta * mean((z_q - sg[z])^2): weight 1 on the commitment term, beta on the codebook
    term, as released; the VQ-VAE paper has it the other way round (docs/deviations.md).
    """

    def __init__(self, codebook_size: int, emb_dim: int, beta: float = 0.25) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.emb_dim = emb_dim
        self.beta = beta
        codebook = torch.empty(codebook_size, emb_dim).uniform_(-1.0 / codebook_size, 1.0 / codebook_size)
        self.embedding = nn.Embedding.from_pretrained(codebook, freeze=False)

    @property
    def codebook(self) -> Tensor:
        """(K, D)"""
        return self.embedding.weight

    def distances(self, z: Tensor) -> Tensor:
        """Squared distance of every position of z (B, D, h, w) to every code, (N, K), in float32 under autocast too."""
        with torch.autocast(z.device.type, enabled=False):
            rows = z.permute(0, 2, 3, 1).reshape(-1, self.emb_dim).float()  # (B, D, h, w) -> (N, D)
            codes = self.codebook.float()
            squares = rows.square().sum(1, keepdim=True) + codes.square().sum(1)
            return torch.addmm(squares, rows, codes.t(), alpha=-2)  # (N, D) -> (N, K)

    def code_indices(self, z: Tensor) -> Tensor:
        """Index of the nearest code at each position of z (B, D, h, w): (B, h, w) int64."""
        return self.distances(z).argmin(1).view(z.shape[0], z.shape[2], z.shape[3])

    def get_codebook_feat(self, code_idx: Tensor, shape: tuple[int, int, int, int] | None = None) -> Tensor:
        """See codebook_rows."""
        return codebook_rows(self.codebook, code_idx, shape)

    @torch.no_grad()
    def codes_used(self, z: Tensor) -> Tensor:
        """Which codes the positions of z (B, D, h, w) choose: (K,) float, 1 or 0."""
        used = torch.zeros(self.codebook_size, device=z.device)
        used[self.code_indices(z).flatten()] = 1.0
        return used

    @torch.no_grad()
    def restart(self, unused: Tensor, z: Tensor, rng: np.random.Generator) -> int:
        """Put the codes of the mask `unused` (K,) onto positions of z (B, D, h, w) drawn by rng.

        Returns:
            How many codes moved (Dhariwal et al. 2020, Jukebox, sec. 3.1: codes that nothing chooses never learn).
        """
        count = int(unused.sum())
        rows = z.permute(0, 2, 3, 1).reshape(-1, self.emb_dim)  # (B, D, h, w) -> (N, D)
        chosen = torch.from_numpy(rng.choice(len(rows), count, replace=count > len(rows))).to(z.device)
        self.embedding.weight[unused] = rows[chosen].to(self.embedding.weight)
        return count

    def forward(self, z: Tensor) -> QuantizerOutput:
        """z (B, D, h, w) -> codes with the gradient handed straight through to z; in float32 under autocast too.

        stats: perplexity and mean_distance (scalars), min_encodings (N, K) one-hot, min_encoding_indices (N, 1) int64.
        """
        z = out_of_autocast(z)
        distances = self.distances(z)  # (N, K)
        code_idx = distances.argmin(1)  # (N,)
        batch, _, height, width = z.shape
        quant_feat = self.get_codebook_feat(code_idx, (batch, height, width, self.emb_dim))
        loss = F.mse_loss(z, quant_feat.detach()) + self.beta * F.mse_loss(quant_feat, z.detach())
        one_hot = F.one_hot(code_idx, self.codebook_size).to(z.dtype)  # (N, K)
        stats = {
            "perplexity": perplexity(one_hot.mean(0)),
            "min_encodings": one_hot,
            "min_encoding_indices": code_idx.unsqueeze(1),
            "mean_distance": distances.detach().mean(),
        }
        return QuantizerOutput(z + (quant_feat - z).detach(), loss, stats)


class GumbelQuantizer(nn.Module):
    """Codes drawn by Gumbel-softmax from the logits of a 1x1 convolution (Jang et al. 2017).

    `temperature` is an attribute that stage I anneals (VQGANModel). As released, evaluation draws noise too;
    `code_indices` does not.
    """

    def __init__(
        self,
        codebook_size: int,
        emb_dim: int,
        straight_through: bool = False,
        kl_weight: float = 5e-4,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.emb_dim = emb_dim
        self.straight_through = straight_through
        self.kl_weight = kl_weight
        self.temperature = temperature
        self.proj = nn.Conv2d(emb_dim, codebook_size, 1)
        self.embed = nn.Embedding(codebook_size, emb_dim)

    @property
    def codebook(self) -> Tensor:
        """(K, D)"""
        return self.embed.weight

    def code_indices(self, z: Tensor) -> Tensor:
        """Index of the most probable code at each position of z (B, D, h, w): (B, h, w) int64, without noise."""
        return self.logits(z).argmax(1)

    def logits(self, z: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, K, h, w), in float32 under autocast too."""
        return run_in_float32(self.proj, z)

    def get_codebook_feat(self, code_idx: Tensor, shape: tuple[int, int, int, int] | None = None) -> Tensor:
        """See codebook_rows."""
        return codebook_rows(self.codebook, code_idx, shape)

    def forward(self, z: Tensor) -> QuantizerOutput:
        """z (B, D, h, w) -> expectation of the codes under the drawn weights.

        loss = kl_weight * mean over positions of sum_k q log(q K + 1e-10), q = softmax(logits).
        stats: min_encoding_indices (B, h, w) int64.
        """
        hard = self.straight_through if self.training else True
        logits = self.logits(z)  # (B, D, h, w) -> (B, K, h, w)
        weights = F.gumbel_softmax(logits, tau=self.temperature, dim=1, hard=hard)
        quant_feat = torch.einsum("bkhw,kd->bdhw", weights, self.codebook).contiguous()  # (B, K, h, w) -> (B, D, h, w)
        probs = F.softmax(logits, dim=1)
        loss = self.kl_weight * (probs * torch.log(probs * self.codebook_size + 1e-10)).sum(1).mean()
        return QuantizerOutput(quant_feat, loss, {"min_encoding_indices": weights.argmax(1)})
