"""The identity loss: its value, where its gradient stops, what is due when, the jitter before the recogniser."""

import math
from typing import NamedTuple

import pytest
import torch

from basicsr.losses.identity_loss import MAX_MARGIN, MAX_SHIFT, FaceView, IdentityLoss, draw_view, look_at
from basicsr.recognizers import Recognizer, RecognizerSpec
from basicsr.recognizers.crop import crop_to_template
from basicsr.recognizers.iresnet import IResNet
from basicsr.utils.errors import OptionError
from basicsr.utils.seed import rng_for


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
    value = loss(faces_at(0, 60, 90), faces_at(0, 0, 0), 1)
    assert value.item() == pytest.approx(0.5 * (0 + 0.5 + 1) / 3, abs=1e-6)


def test_gradient_reaches_the_restored_face_and_not_the_ground_truth():
    restored, gt = faces_at(40).requires_grad_(), faces_at(0).requires_grad_()
    IdentityLoss(FirstPixels())(restored, gt, 1).backward()
    assert restored.grad is not None
    assert restored.grad.abs().sum() > 0
    assert gt.grad is None


def test_margin_stops_the_gradient_of_recognised_faces_only():
    restored = faces_at(10, 60).requires_grad_()
    loss = IdentityLoss(FirstPixels(), loss_weight=1.0, margin=math.cos(math.radians(30)))
    value = loss(restored, faces_at(0, 0), 1)
    value.backward()
    assert restored.grad is not None
    assert restored.grad[0].abs().sum() == 0
    assert restored.grad[1].abs().sum() > 0
    assert value.item() == pytest.approx((1 - math.cos(math.radians(30)) + 0.5) / 2, abs=1e-6)


def test_a_step_against_the_gradient_brings_the_face_nearer_to_the_person():
    restored = faces_at(50).requires_grad_()
    loss = IdentityLoss(FirstPixels(), loss_weight=1.0)
    before = loss(restored, faces_at(0), 1)
    before.backward()
    assert restored.grad is not None
    assert loss((restored - 0.1 * restored.grad).detach(), faces_at(0), 1) < before


def test_every_and_batch_part_say_what_is_decoded():
    loss = IdentityLoss(FirstPixels(), every=4, batch_part=0.5)
    assert [i for i in range(1, 10) if loss.is_due(i)] == [4, 8]
    late = IdentityLoss(FirstPixels(), every=4, start_iter=4)
    assert [i for i in range(1, 10) if late.is_due(i)] == [8]
    assert [loss.num_samples(n) for n in (1, 2, 3, 8)] == [1, 1, 2, 4]
    assert IdentityLoss(FirstPixels(), batch_part=0.1).num_samples(2) == 1


@pytest.mark.parametrize(
    "wrong",
    [{"every": 0}, {"batch_part": 0.0}, {"batch_part": 1.5}, {"margin": 2.0}, {"jitter_seed": -1}, {"start_iter": -1}],
)
def test_arguments_out_of_range_are_refused(wrong: dict[str, float]):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        IdentityLoss(FirstPixels(), **wrong)  # type: ignore[arg-type]


def tiny_recognizer() -> Recognizer:
    """An untrained network with the real crop."""
    torch.manual_seed(3)
    net = IResNet((1, 1, 1, 1), 4, (16, 16), 8)
    spec = RecognizerSpec(
        "iresnet", (16, 16), "rgb", (127.5,) * 3, (127.5,) * 3, (0.0, 0.0), 8, net.map_shape, None, ""
    )
    return Recognizer(net, spec)


def two_faces(size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Two batches of two smooth pictures (2, 3, S, S)."""
    coarse = torch.randn(2, 2, 3, 5, 5, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    one, other = torch.nn.functional.interpolate(coarse.flatten(0, 1), size, mode="bilinear").chunk(2)
    return one, other


def test_without_jitter_the_loss_is_the_plain_cosine_bit_for_bit_in_every_iteration():
    recognizer, (restored, gt) = tiny_recognizer(), two_faces()
    expected = 0.1 * (1 - (recognizer(restored).embedding * recognizer(gt).embedding).sum(1)).mean()
    assert all(torch.equal(IdentityLoss(recognizer)(restored, gt, t), expected) for t in (1, 2, 7))


def test_equal_faces_have_no_loss_under_any_jitter():
    loss, (face, _) = IdentityLoss(tiny_recognizer(), 1.0, jitter=True), two_faces()
    assert max(abs(loss(face, face.clone(), t).item()) for t in range(1, 12)) < 1e-6


def test_jitter_is_a_function_of_seed_and_iteration_and_leaves_torchs_generator_alone():
    recognizer, (restored, gt) = tiny_recognizer(), two_faces()
    state = torch.get_rng_state()
    values = [[IdentityLoss(recognizer, jitter=True)(restored, gt, t).item() for t in range(1, 6)] for _ in range(2)]
    other_seed = [IdentityLoss(recognizer, jitter=True, jitter_seed=1)(restored, gt, t).item() for t in range(1, 6)]
    assert values[0] == values[1]
    assert len(set(values[0])) == 5
    assert not set(other_seed) & set(values[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_jittered_loss_is_the_plain_loss_of_the_two_views():
    recognizer, (restored, gt) = tiny_recognizer(), two_faces()
    found = IdentityLoss(recognizer, jitter=True, jitter_seed=5)(restored, gt, 9)
    view = draw_view(rng_for(1013, 5, 9), 64)
    assert torch.equal(found, IdentityLoss(recognizer)(look_at(restored, view), look_at(gt, view), 9))


def test_jitter_hands_its_gradient_back_to_the_pixels_it_came_from():
    loss, (restored, gt) = IdentityLoss(tiny_recognizer(), 1.0, jitter=True), two_faces()
    for current_iter in range(1, 5):
        restored = restored.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(restored, gt, current_iter), restored)
        direction = gradient / gradient.norm()
        ahead, behind = (loss((restored + step * direction).detach(), gt, current_iter) for step in (0.01, -0.01))
        assert float(ahead - behind) / 0.02 == pytest.approx(float(gradient.norm()), rel=2e-2)


@pytest.mark.parametrize(("size", "shift", "margin"), [(512, 10, 13), (64, 1, 2), (32, 1, 1)])
def test_views_reach_their_limits_evenly_and_are_centred_on_average(size: int, shift: int, margin: int):
    views = [draw_view(rng_for(number), size) for number in range(4000)]
    assert sum(view.flip for view in views) / len(views) == pytest.approx(0.5, abs=0.032)  # 4 sigma
    grown = [view.side - size for view in views]
    assert set(grown) == set(range(-2 * margin, 2 * margin + 1, 2))
    for start in ([view.left for view in views], [view.top for view in views]):
        moved = [place + growth // 2 for place, growth in zip(start, grown, strict=True)]  # of the centre
        assert set(moved) == set(range(-shift, shift + 1))
        for values, limit in ((grown, 2 * margin), (moved, shift)):
            assert abs(sum(values)) / len(values) < 4 * limit / len(values) ** 0.5


def test_a_view_is_the_cut_pixels_and_gray_beyond_the_picture():
    image = torch.arange(1.0, 17.0).view(1, 1, 4, 4)
    inside = look_at(image, FaceView(1, 2, 2, flip=True))
    beyond = look_at(image, FaceView(-1, 2, 5, flip=False))
    assert inside.tolist() == [[[[11, 10], [15, 14]]]]
    assert beyond[0, 0, :2].tolist() == [[0, 9, 10, 11, 12], [0, 13, 14, 15, 16]]
    assert beyond[0, 0, 2:].eq(0).all()


@pytest.mark.parametrize("size", [32, 64, 512])
def test_the_crop_of_no_view_sees_beyond_the_picture(size: int):
    shift, margin = round(MAX_SHIFT * size), round(MAX_MARGIN * size)
    ones = torch.ones(1, 1, size, size)
    for x, y in ((-shift, -shift), (shift, shift), (shift, -shift)):
        crop = crop_to_template(look_at(ones, FaceView(x - margin, y - margin, size + 2 * margin, flip=False)))
        torch.testing.assert_close(crop, torch.ones_like(crop), atol=1e-5, rtol=0)


@pytest.mark.parametrize("jitter", [False, True])
def test_autocast_changes_neither_value_nor_gradient_of_float32_pictures(jitter: bool):
    loss, (restored, gt) = IdentityLoss(tiny_recognizer(), 1.0, jitter=jitter), two_faces()
    found = []
    for enabled in (False, True):
        pixels = restored.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            value = loss(pixels, gt, 3)
        value.backward()
        found.append((value.detach(), pixels.grad))
    assert found[1][0].dtype == torch.float32
    # bfloat16 would be off by 4e-3 of the value; 1e-6 leaves room for another order of summation only
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found[1][1], found[0][1], atol=1e-8, rtol=1e-5)
