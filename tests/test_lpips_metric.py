"""LPIPS as a metric: per-image values of 8-bit images, the net in the name, unavailable without its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from basicsr.metrics.base_metric import MetricUnavailable
from basicsr.metrics.lpips_metric import LPIPSMetric
from basicsr.utils.img_util import quantize
from basicsr.utils.lpips_net import random_lpips
from basicsr.utils.registry import METRIC_REGISTRY


@pytest.fixture(scope="module")
def metric(tmp_path_factory: pytest.TempPathFactory) -> LPIPSMetric:
    path = tmp_path_factory.mktemp("lpips") / "squeeze.pth"
    state = random_lpips("squeeze").net.state_dict()
    torch.save({f"features.{key.split('.', 1)[1]}": value for key, value in state.items()}, path)
    return METRIC_REGISTRY.build({"type": "LPIPSMetric", "net": "squeeze", "backbone": str(path)})


def test_values_are_the_net_s_distances_of_plain_8_bit_images(metric: LPIPSMetric) -> None:
    generator = torch.Generator().manual_seed(0)
    restored, gt = (torch.rand(2, 3, 40, 40, generator=generator) * 2 - 1 for _ in range(2))
    expected = metric.net(quantize(restored), quantize(gt))
    assert torch.allclose(metric.measure(restored, gt), expected.double(), atol=1e-7)


def test_the_backbone_is_part_of_the_label(metric: LPIPSMetric) -> None:
    assert (metric.label, metric.better) == ("LPIPS-squeeze", "lower")


def test_without_its_file_the_metric_is_unavailable_and_names_it(tmp_path: Path) -> None:
    with pytest.raises(MetricUnavailable, match=r"LPIPS-alex: needs .*gone\.pth"):
        LPIPSMetric("alex", backbone=str(tmp_path / "gone.pth"))
