"""GAN losses against their formulas, and the adaptive weight against gradients known in closed form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from basicsr.losses.gan_loss import GANLoss, adaptive_gan_weight

LOGITS = torch.tensor([-2.0, -0.5, 0.25, 3.0])


@pytest.mark.parametrize(
    ("target_is_real", "is_disc", "expected"),
    [
        (True, True, (3.0 + 1.5 + 0.75 + 0.0) / 4),  # relu(1 - x)
        (False, True, (0.0 + 0.5 + 1.25 + 4.0) / 4),  # relu(1 + x)
        (True, False, -0.5 * 0.75 / 4),  # loss_weight * -mean
    ],
)
def test_hinge_equals_the_formula(target_is_real: bool, is_disc: bool, expected: float) -> None:
    loss = GANLoss("hinge", loss_weight=0.5)(LOGITS, target_is_real, is_disc)
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize("target_is_real", [True, False])
@pytest.mark.parametrize(
    ("gan_type", "real", "fake"),
    [
        ("vanilla", F.softplus(-LOGITS).mean(), F.softplus(LOGITS).mean()),
        ("lsgan", ((LOGITS - 1) ** 2).mean(), (LOGITS**2).mean()),
        ("wgan", -LOGITS.mean(), LOGITS.mean()),
        ("wgan_softplus", F.softplus(-LOGITS).mean(), F.softplus(LOGITS).mean()),
    ],
)
def test_other_gan_types_equal_their_formula(gan_type, real, fake, target_is_real: bool) -> None:
    loss = GANLoss(gan_type)(LOGITS, target_is_real, is_disc=True)
    assert loss.item() == pytest.approx((real if target_is_real else fake).item(), rel=1e-6)


def test_loss_weight_scales_the_generator_and_leaves_the_discriminator_alone() -> None:
    loss = GANLoss("vanilla", loss_weight=0.1)
    assert loss(LOGITS, True).item() == pytest.approx(0.1 * loss(LOGITS, True, is_disc=True).item())


def test_hinge_refuses_a_generator_that_asks_for_fake() -> None:
    with pytest.raises(ValueError, match="target_is_real=True"):
        GANLoss("hinge")(LOGITS, target_is_real=False)


@pytest.mark.parametrize(
    ("recon_scale", "gan_scale", "expected"),
    [
        (1.0, 4.0, 0.8 * 2.0 / (8.0 + 1e-4)),  # ||(1, 1, 1, 1)|| = 2
        (5.0, 1.0, 0.8),  # clamped at 1
        (0.0, 1.0, 0.0),
    ],
)
def test_adaptive_weight_is_the_ratio_of_gradient_norms(recon_scale: float, gan_scale: float, expected: float) -> None:
    last_layer = torch.zeros(4, requires_grad=True)
    weight = adaptive_gan_weight(recon_scale * last_layer.sum(), gan_scale * last_layer.sum(), last_layer)
    assert weight.item() == pytest.approx(expected, rel=1e-6)
    assert not weight.requires_grad


def test_adaptive_weight_leaves_the_graph_and_the_gradients_untouched() -> None:
    last_layer = torch.ones(4, requires_grad=True)
    recon_loss, gan_loss = last_layer.square().sum(), last_layer.sum()
    weight = adaptive_gan_weight(recon_loss, gan_loss, last_layer, disc_weight=0.5)
    assert last_layer.grad is None
    (recon_loss + weight * gan_loss).backward()
    assert last_layer.grad is not None
    assert torch.allclose(last_layer.grad, torch.full((4,), 2.5))


def test_adaptive_weight_averages_gradients_over_ranks_before_the_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two ranks with opposite reconstruction gradients: the mean gradient is 0, while the mean of the ratios is not.
    monkeypatch.setattr("basicsr.losses.gan_loss.all_reduce_mean", lambda gradient: gradient - gradient.mean())
    last_layer = torch.zeros(4, requires_grad=True)
    gan_loss = (torch.tensor([3.0, -3.0, 0.0, 0.0]) * last_layer).sum()
    assert adaptive_gan_weight(last_layer.sum(), gan_loss, last_layer).item() == 0.0


def test_at_the_pictures_two_ranks_with_half_the_batch_weigh_like_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, target = torch.rand(4, 3, requires_grad=True), torch.rand(4, 3)

    def weight_of(part: slice) -> torch.Tensor:
        restored = pictures[part] * 1.0  # inside the graph, as a generator's output is
        loss = (restored - target[part]).square().mean()
        return adaptive_gan_weight(loss, 3.0 * restored.exp().mean(), restored, disc_weight=1.0)

    expected = weight_of(slice(None))
    sent: list[torch.Tensor] = []  # by rank 0: for the reconstruction, then for the GAN

    def send(value: torch.Tensor) -> torch.Tensor:
        sent.append(value)
        return value

    monkeypatch.setattr("basicsr.losses.gan_loss.all_reduce_mean", send)
    weight_of(slice(0, 2))
    other_rank = iter(list(sent))
    monkeypatch.setattr("basicsr.losses.gan_loss.world_size", lambda: 2)
    monkeypatch.setattr("basicsr.losses.gan_loss.all_reduce_mean", lambda value: (value + next(other_rank)) / 2)
    torch.testing.assert_close(weight_of(slice(2, 4)), expected)


@pytest.mark.parametrize("unreached", ["recon_loss", "gan_loss"])
def test_adaptive_weight_names_the_loss_that_does_not_reach_the_last_layer(unreached: str) -> None:
    last_layer, other = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    losses = {"recon_loss": last_layer.sum(), "gan_loss": last_layer.sum(), unreached: other.sum()}
    with pytest.raises(ValueError, match=unreached):
        adaptive_gan_weight(losses["recon_loss"], losses["gan_loss"], last_layer)


def test_adaptive_weight_refuses_a_frozen_last_layer() -> None:
    last_layer, other = torch.ones(2), torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="constant weight"):
        adaptive_gan_weight((last_layer * other).sum(), other.sum(), last_layer)
