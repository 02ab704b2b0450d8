"""The protocol of all metrics: rounding to 8 bit, keeping, averaging, resetting."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from basicsr.metrics.base_metric import Metric


class MeanLevel(Metric):
    """Mean of the restored image on the 0..255 scale."""

    label = "mean level"
    better = "higher"
    protocol = "test"

    def score(self, restored: Tensor, gt: Tensor) -> Tensor:
        return (restored.double().mean(dim=(1, 2, 3)) + 1) * 127.5


def constant(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)


def test_images_are_judged_as_their_8_bit_files() -> None:
    images = constant(0.0, 2.0)  # 127.5 rounds to 128, 2.0 clamps to 255
    assert MeanLevel().measure(images, images).tolist() == pytest.approx([128.0, 255.0], abs=1e-4)


def test_compute_is_the_mean_over_all_images_of_all_updates() -> None:
    metric = MeanLevel()
    metric.update(constant(-1.0, -1.0), constant(0.0, 0.0))
    metric.update(constant(1.0), constant(0.0))
    assert metric.values() == pytest.approx([0.0, 0.0, 255.0], abs=1e-4)
    assert metric.compute() == pytest.approx(85.0, abs=1e-4)


def test_measure_keeps_nothing_and_reset_forgets() -> None:
    metric = MeanLevel()
    metric.measure(constant(1.0), constant(1.0))
    assert metric.values() == []
    metric.update(constant(1.0), constant(1.0))
    metric.reset()
    assert metric.values() == []


def test_compute_before_any_update_is_refused() -> None:
    with pytest.raises(ValueError, match="before any update"):
        MeanLevel().compute()


def test_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="must match"):
        MeanLevel().measure(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 8, 8))
