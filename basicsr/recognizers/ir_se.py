"""The two IR networks whose files name their parts `input_layer`, `body` and `output_layer`.

Residual blocks of ArcFace (Deng et al. 2019, sec. 3.1: BN-Conv-(BN)-PReLU-Conv-BN), keys and shapes as published:
- `adaface`: IR-18/50/101 of AdaFace (Kim et al. 2022). A norm between convolution and PReLU; last norm without gain.
- `ir_se`: IR-SE50 of TreB1eN's InsightFace_Pytorch, which facexlib ships. No norm there; squeeze-and-excitation (Hu et
  al. 2018) at the end of each block; last norm with gain.

Shapes: B batch; H, W input; C channels of the last map; h, w that map (input / 16, rounded up); E embedding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

IRKind = Literal["adaface", "ir_se"]

DROPOUT = 0.4  # of training; only its place in the numbering of `output_layer` matters here


class SqueezeExcite(nn.Module):
    """Weighs each channel by a gate computed from all channel means."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=False)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.relu(self.fc1(x.mean((2, 3), keepdim=True)))  # (B, C, h, w) -> (B, hidden, 1, 1)
        return x * torch.sigmoid(self.fc2(gate))


class IRBlock(nn.Module):
    """Residual block without an activation after the sum. `hidden`: width of the squeeze; None for AdaFace's block."""

    def __init__(self, channels_in: int, channels: int, stride: int, hidden: int | None) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module
        if channels_in == channels:
            self.shortcut_layer = nn.MaxPool2d(1, stride)  # every stride-th pixel
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(channels_in),
            nn.Conv2d(channels_in, channels, 3, 1, 1, bias=False),
            *([nn.BatchNorm2d(channels)] if hidden is None else []),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            *([] if hidden is None else [SqueezeExcite(channels, hidden)]),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class IRNet(nn.Module):
    """Recognition network; AdaFace's IR-50 is `IRNet("adaface", [64] * 3 + [128] * 4 + [256] * 14 + [512] * 3)`.

    Args:
        widths: channels of each block; the first block and each that widens halve the picture.
        stem: channels before the first block.
        input_size: (H, W), px.
        embed_dim: width of the embedding.
        reduction: ir_se, channels of a block per channel of its squeeze.
    """

    def __init__(
        self,
        kind: IRKind,
        widths: Sequence[int],
        stem: int = 64,
        input_size: tuple[int, int] = (112, 112),
        embed_dim: int = 512,
        reduction: int = 16,
    ) -> None:
        super().__init__()
        inputs = [stem, *widths[:-1]]
        strides = [2 if i == 0 or inputs[i] != width else 1 for i, width in enumerate(widths)]
        shrink = math.prod(strides)
        self.input_size = input_size
        self.embed_dim = embed_dim
        self.map_shape = (widths[-1], -(-input_size[0] // shrink), -(-input_size[1] // shrink))
        self.input_layer = nn.Sequential(nn.Conv2d(3, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem), nn.PReLU(stem))
        self.body = nn.Sequential(
            *(
                IRBlock(inputs[i], width, strides[i], width // reduction if kind == "ir_se" else None)
                for i, width in enumerate(widths)
            )
        )
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(widths[-1]),
            nn.Dropout(DROPOUT),
            nn.Flatten(),
            nn.Linear(math.prod(self.map_shape), embed_dim),
            nn.BatchNorm1d(embed_dim, affine=kind == "ir_se"),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Aligned BGR [-1, 1] (B, 3, H, W) -> embedding (B, E), not normalised, and the last map (B, C, h, w)."""
        feature_map = self.output_layer[0](self.body(self.input_layer(x)))
        embedding = feature_map
        for layer in self.output_layer[1:]:
            embedding = layer(embedding)
        return embedding, feature_map


def kind_of(state: Mapping[str, Tensor]) -> IRKind | None:
    """Which of the two networks a state dict belongs to; None: neither."""
    if not state.keys() >= {"input_layer.0.weight", "output_layer.3.weight", "body.0.res_layer.1.weight"}:
        return None
    if "body.0.res_layer.5.fc1.weight" in state:
        return "ir_se"
    # IR without squeeze and without that norm exists too (face.evoLVe); nothing in its file tells the colour order
    return "adaface" if "body.0.res_layer.5.running_mean" in state else None


def ir_net_for(state: Mapping[str, Tensor]) -> IRNet:
    """An untrained network with the sizes of a state dict for which `kind_of` is not None."""
    kind = kind_of(state)
    if kind is None:
        raise ValueError("no IR network of a known kind")
    num_blocks = len({name.split(".")[1] for name in state if name.startswith("body.")})
    widths = [state[f"body.{i}.res_layer.1.weight"].shape[0] for i in range(num_blocks)]
    embed_dim, flat = state["output_layer.3.weight"].shape
    num_halvings = 1 + sum(narrow != wide for narrow, wide in itertools.pairwise(widths))
    side = math.isqrt(flat // widths[-1]) * 2**num_halvings
    reduction = widths[0] // state["body.0.res_layer.5.fc1.weight"].shape[0] if kind == "ir_se" else 1
    return IRNet(kind, widths, state["input_layer.0.weight"].shape[0], (side, side), embed_dim, reduction)
