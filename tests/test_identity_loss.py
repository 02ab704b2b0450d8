"""The identity loss: its value, where its gradient stops, what is due when."""

import math
from typing import NamedTuple

import pytest
import torch

from basicsr.losses.identity_loss import IdentityLoss
from basicsr.utils.errors import OptionError


class Output(NamedTuple):
    embedding: torch.Tensor


class FirstPixels(torch.nn.Module):
    """Embedding of a face: its top-left pixel, to unit length."""

    def forward(self, images: torch.Tensor) -> Output:
        return Output(torch.nn.functional.normalize(images[:, :, 0, 0], dim=1))


def faces_at(*degrees: float) -> torch.Tensor:
    """Faces (B, 3, 2, 2) whose embedding turns by so many degrees from that of `faces_at(0)`."""
    angle = torch.deg2rad(torch.tensor(degrees))
    pixels = torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)], 1)
    return pixels[:, :, None, None].repeat(1, 1, 2, 2)


def test_value_is_the_weighted_mean_of_one_minus_cosine():
    loss = IdentityLoss(FirstPixels(), loss_weight=0.5)
    value = loss(faces_at(0, 60, 90), faces_at(0, 0, 0))
    assert value.item() == pytest.approx(0.5 * (0 + 0.5 + 1) / 3, abs=1e-6)


def test_gradient_reaches_the_restored_face_and_not_the_ground_truth():
    restored, gt = faces_at(40).requires_grad_(), faces_at(0).requires_grad_()
    IdentityLoss(FirstPixels())(restored, gt).backward()
    assert restored.grad is not None
    assert restored.grad.abs().sum() > 0
    assert gt.grad is None


def test_margin_stops_the_gradient_of_recognised_faces_only():
    restored = faces_at(10, 60).requires_grad_()
    loss = IdentityLoss(FirstPixels(), loss_weight=1.0, margin=math.cos(math.radians(30)))
    value = loss(restored, faces_at(0, 0))
    value.backward()
    assert restored.grad is not None
    assert restored.grad[0].abs().sum() == 0
    assert restored.grad[1].abs().sum() > 0
    assert value.item() == pytest.approx((1 - math.cos(math.radians(30)) + 0.5) / 2, abs=1e-6)


def test_a_step_against_the_gradient_brings_the_face_nearer_to_the_person():
    restored = faces_at(50).requires_grad_()
    loss = IdentityLoss(FirstPixels(), loss_weight=1.0)
    before = loss(restored, faces_at(0))
    before.backward()
    assert restored.grad is not None
    assert loss((restored - 0.1 * restored.grad).detach(), faces_at(0)) < before


def test_every_and_batch_part_say_what_is_decoded():
    loss = IdentityLoss(FirstPixels(), every=4, batch_part=0.5)
    assert [i for i in range(1, 10) if loss.is_due(i)] == [4, 8]
    assert [loss.num_samples(n) for n in (1, 2, 3, 8)] == [1, 1, 2, 4]
    assert IdentityLoss(FirstPixels(), batch_part=0.1).num_samples(2) == 1


@pytest.mark.parametrize("wrong", [{"every": 0}, {"batch_part": 0.0}, {"batch_part": 1.5}, {"margin": 2.0}])
def test_arguments_out_of_range_are_refused(wrong: dict[str, float]):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        IdentityLoss(FirstPixels(), **wrong)  # type: ignore[arg-type]
