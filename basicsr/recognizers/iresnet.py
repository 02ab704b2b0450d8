"""IResNet, the ArcFace backbone. Paper: Deng et al. 2019 (ArcFace), sec. 3.1: BN-Conv-BN-PReLU-Conv-BN blocks.

With the default widths the state-dict keys and shapes are those of arcface_torch, so its files load. Smaller widths
and inputs give the recognisers of the demo.

Shapes: B batch; H, W input; C = 8 * width channels of the last map; h, w that map (input / 16, rounded up); E width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

ARCFACE_KEYS = {"conv1.weight", "layer4.0.prelu.weight", "fc.weight", "features.weight"}


class IResNetBlock(nn.Module):
    """Residual block without an activation after the sum."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(x)) + shortcut


class IResNet(nn.Module):
    """Recognition network; arcface_torch's r50 is `IResNet((3, 4, 14, 3))`.

    Args:
        layers: blocks in each of the four stages; every stage halves the picture.
        width: channels of the first stage; the others have 2, 4 and 8 times as many.
        input_size: (H, W), px.
        embed_dim: width of the embedding.
    """

    def __init__(
        self,
        layers: Sequence[int] = (3, 4, 14, 3),
        width: int = 64,
        input_size: tuple[int, int] = (112, 112),
        embed_dim: int = 512,
    ) -> None:
        super().__init__()
        self.arguments = {
            "layers": list(layers),
            "width": width,
            "input_size": list(input_size),
            "embed_dim": embed_dim,
        }
        self.input_size = input_size
        self.embed_dim = embed_dim
        self.map_shape = (8 * width, -(-input_size[0] // 16), -(-input_size[1] // 16))
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(width)
        channels = [width, width, 2 * width, 4 * width, 8 * width]
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(*(IResNetBlock(channels[i + (j > 0)], channels[i + 1], 1 if j else 2) for j in range(count)))
            for i, count in enumerate(layers)
        )
        self.bn2 = nn.BatchNorm2d(8 * width)
        self.fc = nn.Linear(self.map_shape[0] * self.map_shape[1] * self.map_shape[2], embed_dim)
        self.features = nn.BatchNorm1d(embed_dim)
        self.features.weight.requires_grad_(False)  # a gain per dimension would undo the margin's unit sphere

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Aligned RGB [-1, 1] (B, 3, H, W) -> embedding (B, E), not normalised, and the last map (B, C, h, w)."""
        x = self.prelu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        feature_map = self.bn2(x)
        return self.features(self.fc(torch.flatten(feature_map, 1))), feature_map


def is_iresnet(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has arcface_torch's keys; the gray ResNet shares some of them, but has no `features`."""
    return state.keys() >= ARCFACE_KEYS


def sizes_of(state: Mapping[str, Tensor], last_layer: str) -> tuple[list[int], int, tuple[int, int], int]:
    """Depths, width, input size and embed_dim of a four-stage network; `last_layer` takes its map, input / 16, flat."""
    depths = [len({name.split(".")[1] for name in state if name.startswith(f"layer{i}.")}) for i in range(1, 5)]
    width = state["conv1.weight"].shape[0]
    embed_dim, flat = state[f"{last_layer}.weight"].shape
    side = 16 * math.isqrt(flat // (8 * width))
    return depths, width, (side, side), embed_dim


def iresnet_for(state: Mapping[str, Tensor]) -> IResNet:
    """An untrained network with the sizes of a state dict."""
    return IResNet(*sizes_of(state, "fc"))
