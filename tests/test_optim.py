"""Learning rates against plain loops over upstream's recurrences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from basicsr.config.optim_options import AdamOptions, CosineOptions, MultiStepOptions
from basicsr.engine.optim import build_optimizer, learning_rate_at, set_learning_rate
from basicsr.utils.errors import OptionError


def test_multi_step_equals_the_chained_product() -> None:
    schedule = MultiStepOptions(milestones=(3, 5, 5), gamma=0.5)
    rate, rates = 1e-3, []
    for step in range(8):  # iteration t is step t - 1
        rate *= 0.5 ** [3, 5, 5].count(step)
        rates.append(rate)
    found = [learning_rate_at(t, 1e-3, schedule) for t in range(1, 9)]
    assert found == pytest.approx(rates, rel=1e-12)


def test_cosine_starts_at_the_base_rate_and_stays_at_its_floor_past_the_end() -> None:
    schedule = CosineOptions(periods=(10, 10), restart_weights=(1.0, 0.5), eta_min=1e-5)
    expected = {1: 1e-3, 6: 1e-5 + 0.5 * (1e-3 - 1e-5) * (1 + math.cos(math.pi / 2)), 11: 1e-5, 21: 1e-5, 500: 1e-5}
    for iteration, rate in expected.items():
        assert learning_rate_at(iteration, 1e-3, schedule) == pytest.approx(rate, rel=1e-9)
    restart = learning_rate_at(12, 1e-3, schedule)
    assert restart == pytest.approx(1e-5 + 0.25 * (1e-3 - 1e-5) * (1 + math.cos(math.pi / 10)))


def test_warm_up_is_linear_and_ends_at_its_iteration() -> None:
    rates = [learning_rate_at(t, 1.0, None, warmup_iter=4) for t in range(1, 7)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


def test_parameters_that_are_fixed_are_left_out() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].requires_grad_(False)
    optimizer = build_optimizer(net, AdamOptions(lr=1e-3))
    assert [p.shape for p in optimizer.param_groups[0]["params"]] == [p.shape for p in net[1].parameters()]
    set_learning_rate(optimizer, 0.5)
    assert optimizer.param_groups[0]["lr"] == 0.5
    with pytest.raises(OptionError, match="nothing to train"):
        build_optimizer(net.requires_grad_(False), AdamOptions(lr=1e-3))


def test_the_optimisers_step_is_that_of_torch() -> None:
    torch.manual_seed(1)
    ours, theirs = nn.Linear(3, 1), nn.Linear(3, 1)
    theirs.load_state_dict(ours.state_dict())
    pair = [
        (ours, build_optimizer(ours, AdamOptions(lr=0.1, betas=(0.5, 0.9), weight_decay=0.2))),
        (theirs, torch.optim.Adam(theirs.parameters(), 0.1, (0.5, 0.9), weight_decay=0.2)),
    ]
    for net, optimizer in pair:
        net(torch.ones(2, 3)).sum().backward()
        optimizer.step()
    assert torch.equal(ours.weight, theirs.weight)
