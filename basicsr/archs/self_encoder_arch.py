"""E_LQ: the identity of a degraded photo, as well as it can be told from the photo alone.

A recogniser was trained on clean faces; what it says of a bad one drifts from the person, and its feature norm says
only roughly how far. E_LQ corrects it: trained so that its output points where the recogniser points on the clean photo
of the same face (compare the identity prediction of CLR-Face and Diffuse-and-Restore), with its own expectation of how
well it has hit.

Shapes: B batch; S side of the FFHQ-framed face; E width of the identity embedding.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.recognizers import crop_to_template
from basicsr.recognizers.mobilefacenet import MobileFaceNet

TRUNK_DIM = 128
HIDDEN_DIM = 256


class SelfIdentity(NamedTuple):
    """What E_LQ says of a batch of degraded photos."""

    embedding: Tensor  # (B, E), unit length
    quality: Tensor  # (B,) in (0, 1): expected cosine to the embedding of the clean photo


class SelfEncoder(nn.Module):
    """normalise(e + delta(x, e)), with the recogniser's e of the degraded photo x; delta is zero at the start.

    So an untrained E_LQ is the recogniser itself, and training only adds to it.

    Args:
        embed_dim: E of the recogniser.
        input_size: px, side of the aligned face (template of ArcFace-112, scaled) that the trunk sees.
        min_quality: a photo of less quality gives no identity; see scripts/train_self_encoder.py.
    """

    def __init__(self, embed_dim: int, input_size: int = 64, min_quality: float = 0.0) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.input_size = input_size
        self.min_quality = min_quality
        self.embed_scale = embed_dim**0.5  # entries of a unit vector have size 1 / sqrt(E); a layer expects about 1
        self.trunk = MobileFaceNet((1, 2, 1), 0.5, (input_size, input_size), TRUNK_DIM)
        head = nn.Linear(HIDDEN_DIM, embed_dim + 1)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        self.mlp = nn.Sequential(nn.Linear(TRUNK_DIM + embed_dim + 1, HIDDEN_DIM), nn.SiLU(), head)

    def forward(self, lq: Tensor, embed: Tensor, quality: Tensor) -> SelfIdentity:
        """What the photos themselves say of their person. Computes in float32, also under autocast.

        Args:
            lq: (B, 3, S, S) RGB [-1, 1] in FFHQ framing.
            embed, quality: the recogniser's embedding of lq (B, E), and its trust by feature norm (B,) in (0, 1].
        """
        with torch.autocast(lq.device.type, enabled=False):
            return self.describe(lq.float(), embed.float(), quality.float())

    def describe(self, lq: Tensor, embed: Tensor, quality: Tensor) -> SelfIdentity:
        """`forward` without a look at autocast: a graph can be traced through it."""
        seen = self.trunk(crop_to_template(lq, (self.input_size, self.input_size)))[0]  # (B, TRUNK_DIM)
        inputs = torch.cat([seen, embed * self.embed_scale, quality.log()[:, None]], dim=1)
        change, logit = self.mlp(inputs).split([self.embed_dim, 1], dim=1)  # (B, E), (B, 1)
        return SelfIdentity(F.normalize(embed + change, dim=1), torch.sigmoid(logit[:, 0]))
