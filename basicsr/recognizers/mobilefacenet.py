"""MobileFaceNet, a small recogniser. Paper: Chen et al. 2018 (MobileFaceNets), table 1; built from the paper.

Inverted bottlenecks of MobileNetV2 with PReLU; instead of average pooling a depthwise convolution as large as the last
map, which weighs the places of an aligned face.

Shapes: B batch; H, W input; C = 512 * width_mult channels of the last map; h, w last map (input / 16); E embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class ConvUnit(nn.Sequential):
    """Convolution, batch norm and, unless `linear`, PReLU."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(channels_in, channels, kernel, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(channels),
        ]
        super().__init__(*layers, *([] if linear else [nn.PReLU(channels)]))


class Bottleneck(nn.Module):
    """Expand, filter each channel, project back; with a shortcut where the shape allows."""

    def __init__(self, channels_in: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = expansion * channels_in
        self.expand = ConvUnit(channels_in, hidden)
        self.depthwise = ConvUnit(hidden, hidden, 3, stride, 1, groups=hidden)
        self.project = ConvUnit(hidden, channels, linear=True)
        self.has_shortcut = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        filtered = self.project(self.depthwise(self.expand(x)))
        return x + filtered if self.has_shortcut else filtered


class MobileFaceNet(nn.Module):
    """Recognition network; the defaults are the paper's.

    Args:
        depths: bottlenecks after the one that halves the picture, in each of three stages.
        width_mult: factor on all widths (64, 128, 512); results are rounded to a multiple of 8.
        input_size: (H, W), px.
        embed_dim: width of the embedding.
    """

    def __init__(
        self,
        depths: Sequence[int] = (4, 6, 2),
        width_mult: float = 1.0,
        input_size: tuple[int, int] = (112, 112),
        embed_dim: int = 128,
    ) -> None:
        super().__init__()
        self.arguments = {
            "depths": list(depths),
            "width_mult": width_mult,
            "input_size": list(input_size),
            "embed_dim": embed_dim,
        }
        narrow, wide, last = (max(8, round(channels * width_mult / 8) * 8) for channels in (64, 128, 512))
        self.map_shape = (last, -(-input_size[0] // 16), -(-input_size[1] // 16))
        self.stem = nn.Sequential(
            ConvUnit(3, narrow, 3, 2, 1),
            ConvUnit(narrow, narrow, 3, 1, 1, groups=narrow),
        )
        self.stages = nn.Sequential(
            Bottleneck(narrow, narrow, 2, 2),
            *(Bottleneck(narrow, narrow, 1, 2) for _ in range(depths[0])),
            Bottleneck(narrow, wide, 2, 4),
            *(Bottleneck(wide, wide, 1, 2) for _ in range(depths[1])),
            Bottleneck(wide, wide, 2, 4),
            *(Bottleneck(wide, wide, 1, 2) for _ in range(depths[2])),
        )
        self.head = ConvUnit(wide, last)
        self.global_depthwise = ConvUnit(last, last, self.map_shape[1:], groups=last, linear=True)
        self.embed = ConvUnit(last, embed_dim, linear=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Aligned RGB [-1, 1] (B, 3, H, W) -> embedding (B, E), not normalised, and the last map (B, C, h, w)."""
        feature_map = self.head(self.stages(self.stem(x)))
        return self.embed(self.global_depthwise(feature_map)).flatten(1), feature_map
