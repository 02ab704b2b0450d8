"""Pixel losses: values and gradients against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from basicsr.losses.pixel_loss import CharbonnierLoss, L1Loss, MSELoss
from basicsr.utils.registry import LOSS_REGISTRY


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pred = torch.rand(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    return pred.requires_grad_(), torch.rand(2, 3, 4, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("loss", "formula"),
    [
        (L1Loss(0.5), lambda d: 0.5 * np.abs(d).mean()),
        (MSELoss(2.0), lambda d: 2.0 * (d**2).mean()),
        (CharbonnierLoss(3.0), lambda d: 3.0 * np.sqrt(d**2 + 1e-12).mean()),
        (L1Loss(0.5, reduction="sum"), lambda d: 0.5 * np.abs(d).sum()),
    ],
)
def test_pixel_losses_equal_their_formula_in_numpy(loss, formula, images) -> None:
    pred, target = images
    expected = formula(pred.detach().numpy() - target.numpy())
    assert loss(pred, target).item() == pytest.approx(expected, rel=1e-12)


def test_gradient_of_l1_is_the_weighted_sign_over_the_count(images) -> None:
    pred, target = images
    L1Loss(0.5)(pred, target).backward()
    assert torch.equal(pred.grad, 0.5 * torch.sign(pred.detach() - target) / pred.numel())


def test_gradient_of_charbonnier_is_zero_and_finite_at_equality(images) -> None:
    pred, _ = images
    CharbonnierLoss()(pred, pred.detach()).backward()
    assert torch.equal(pred.grad, torch.zeros_like(pred))


def test_pixel_losses_are_registered_under_basicsr_s_names() -> None:
    assert isinstance(LOSS_REGISTRY.build({"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"}), L1Loss)
    assert LOSS_REGISTRY.get("MSELoss") is MSELoss
    assert LOSS_REGISTRY.get("CharbonnierLoss") is CharbonnierLoss
