"""The average is that of the recurrence, buffers included."""

from __future__ import annotations

import torch
from torch import nn

from basicsr.engine.ema import ModelEma


def test_parameters_and_buffers_follow_the_recurrence() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = ModelEma(net, decay=0.9)
    expected = {key: value.clone() for key, value in net.state_dict().items()}
    for _ in range(3):
        net(torch.randn(8, 2))
        with torch.no_grad():
            net.get_parameter("0.weight").add_(1)
        ema.update(net)
        for key, value in net.state_dict().items():
            mixed = 0.9 * expected[key] + 0.1 * value if value.is_floating_point() else value.clone()
            expected[key] = mixed
    for key, value in ema.net.state_dict().items():
        torch.testing.assert_close(value, expected[key])
    assert ema.net.state_dict()["1.num_batches_tracked"] == 3


def test_the_average_is_not_trained_and_not_tied_to_the_network() -> None:
    net = nn.Linear(2, 2)
    ema = ModelEma(net, decay=0.5)
    with torch.no_grad():
        net.get_parameter("weight").zero_()
    assert ema.net.get_parameter("weight").abs().sum() > 0
    assert not any(p.requires_grad for p in ema.net.parameters())
    assert not ema.net.training
