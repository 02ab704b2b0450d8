"""LPIPS as a metric. Paper: Zhang et al. 2018. The backbone is part of the figure's name: nets are not comparable.

Shapes: B batch; H, W pixels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from basicsr.metrics.base_metric import Metric, MetricUnavailable
from basicsr.utils.lpips_net import BackboneMissingError, LPIPSNet
from basicsr.utils.registry import METRIC_REGISTRY

Backbone = Literal["alex", "vgg", "squeeze"]


def available_net(net: Backbone, backbone: str | None) -> LPIPSNet:
    """The network of an LPIPS figure.

    Raises:
        MetricUnavailable: the backbone is not on this machine.
    """
    try:
        return LPIPSNet(net, backbone)
    except BackboneMissingError as error:
        raise MetricUnavailable(str(error)) from error


@METRIC_REGISTRY.register()
class LPIPSMetric(Metric):
    """LPIPS of plain [-1, 1] RGB images (the training loss may scale differently, see LPIPSLoss).

    Args:
        net: backbone.
        backbone: its weights file; None looks in weights/lpips/ and torch's hub folder.
    Raises:
        MetricUnavailable: the backbone is not on this machine.
    """

    better = "lower"
    value_range = "[0, about 1]"

    def __init__(self, net: Backbone = "alex", backbone: str | None = None) -> None:
        super().__init__()
        self.net = available_net(net, backbone)
        self.label = f"LPIPS-{net}"
        self.protocol = lpips_protocol(self.net)

    def score(self, restored: Tensor, gt: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B,) distances, 0 is equal."""
        self.net.to(restored.device)
        with torch.autocast(restored.device.type, enabled=False):
            return self.net(restored, gt)


def lpips_protocol(net: LPIPSNet) -> str:
    """The conditions of a figure as one line."""
    rounded = ", float16 backbone, not comparable with papers" if net.has_float16_weights else ""
    return f"whole image, RGB [-1, 1], 8 bit, LPIPS v0.1 linear layers, float32{rounded}"
