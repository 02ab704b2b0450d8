"""The gray ResNet-18 of ronghuaiyang/arcface-pytorch, which GFPGAN and its kin take as identity network.

Pre-normed residual blocks; one PReLU slope per block, used inside and after the sum. Keys and shapes as published.

Shapes: B batch; H, W input; C = 8 * width channels of the last map; h, w that map (input / 16); E embedding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from basicsr.recognizers.iresnet import sizes_of

GRAY_KEYS = {"conv1.weight", "layer1.0.bn0.weight", "bn4.weight", "fc5.weight", "bn5.weight"}


class GrayBlock(nn.Module):
    """BN-Conv-BN-PReLU-Conv-BN, plus the shortcut, then the same PReLU."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_in, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.prelu(self.bn1(self.conv1(self.bn0(x))))
        return self.prelu(self.bn2(self.conv2(x)) + shortcut)


class GrayResNet(nn.Module):
    """Recognition network of one channel; the defaults are those of `arcface_resnet18.pth`.

    Args:
        layers: blocks in each of the four stages; the second to the fourth halve the picture, as does a pool before.
        width: channels of the first stage; the others have 2, 4 and 8 times as many.
        input_size: (H, W), px.
        embed_dim: width of the embedding.
    """

    def __init__(
        self,
        layers: Sequence[int] = (2, 2, 2, 2),
        width: int = 64,
        input_size: tuple[int, int] = (128, 128),
        embed_dim: int = 512,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.embed_dim = embed_dim
        self.map_shape = (8 * width, input_size[0] // 16, input_size[1] // 16)
        self.conv1 = nn.Conv2d(1, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU()
        self.pool = nn.MaxPool2d(2)
        channels = [width, width, 2 * width, 4 * width, 8 * width]
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(
                GrayBlock(channels[i], channels[i + 1], 2 if i else 1),
                *(GrayBlock(channels[i + 1], channels[i + 1], 1) for _ in range(count - 1)),
            )
            for i, count in enumerate(layers)
        )
        self.bn4 = nn.BatchNorm2d(8 * width)
        self.fc5 = nn.Linear(math.prod(self.map_shape), embed_dim)
        self.bn5 = nn.BatchNorm1d(embed_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gray [-1, 1] (B, 1, H, W) -> embedding (B, E), not normalised, and the last map (B, C, h, w)."""
        x = self.pool(self.prelu(self.bn1(self.conv1(x))))
        feature_map = self.bn4(self.layer4(self.layer3(self.layer2(self.layer1(x)))))
        return self.bn5(self.fc5(torch.flatten(feature_map, 1))), feature_map


def is_gray_resnet(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has this network's keys."""
    return state.keys() >= GRAY_KEYS


def gray_resnet_for(state: Mapping[str, Tensor]) -> GrayResNet:
    """An untrained network with the sizes of a state dict."""
    return GrayResNet(*sizes_of(state, "fc5"))
