"""Colour changes against torchvision's, mirroring, and the references' augmentation."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tv
from scipy.stats import kstest, uniform

from basicsr.data.augment import ColorJitter, ColorJitterRanges, ReferenceAugmentation, augment_reference, flip, to_gray
from basicsr.utils.seed import rng_for

STEPS: dict[str, tuple[Callable[..., torch.Tensor], float]] = {
    "brightness": (tv.adjust_brightness, 1.4),
    "contrast": (tv.adjust_contrast, 0.6),
    "saturation": (tv.adjust_saturation, 1.3),
    "hue": (tv.adjust_hue, -0.08),
}


@pytest.fixture
def image(rng: np.random.Generator) -> np.ndarray:
    return rng.random((12, 10, 3), dtype=np.float32)


def as_rgb_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)))


def as_bgr_array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.numpy().transpose(1, 2, 0)[..., ::-1]


ALONE = {
    "brightness": ColorJitter(brightness=STEPS["brightness"][1]),
    "contrast": ColorJitter(contrast=STEPS["contrast"][1]),
    "saturation": ColorJitter(saturation=STEPS["saturation"][1]),
    "hue": ColorJitter(hue=STEPS["hue"][1]),
}


@pytest.mark.parametrize("name", STEPS)
def test_each_step_equals_torchvision(image, name):
    adjust, factor = STEPS[name]
    expected = as_bgr_array(adjust(as_rgb_tensor(image), factor))
    # torchvision's gray weights are .2989 .587 .114, ours .299 .587 .114
    np.testing.assert_allclose(ALONE[name].apply(image), expected, atol=2e-4)


def test_steps_are_taken_in_the_drawn_order(image):
    for order in itertools.permutations(range(4)):
        tensor = as_rgb_tensor(image)
        for step in order:
            adjust, factor = list(STEPS.values())[step]
            tensor = adjust(tensor, factor)
        jitter = ColorJitter(
            STEPS["brightness"][1], STEPS["contrast"][1], STEPS["saturation"][1], STEPS["hue"][1], order
        )
        np.testing.assert_allclose(jitter.apply(image), as_bgr_array(tensor), atol=2e-3)


def test_the_neutral_jitter_keeps_the_picture(image):
    np.testing.assert_allclose(ColorJitter().apply(image), image, atol=1e-5)


def test_a_drawn_jitter_lies_in_its_ranges_and_repeats_with_its_rng():
    ranges = ColorJitterRanges((0.9, 1.1), (0.8, 1.2), (0.7, 1.3), (-0.05, 0.05))
    for key in range(50):
        jitter = ranges.sample(rng_for(key))
        assert jitter == ranges.sample(rng_for(key))
        assert 0.9 <= jitter.brightness <= 1.1
        assert 0.8 <= jitter.contrast <= 1.2
        assert 0.7 <= jitter.saturation <= 1.3
        assert -0.05 <= jitter.hue <= 0.05
        assert sorted(jitter.order) == [0, 1, 2, 3]


def test_flip_is_its_own_inverse_and_a_copy():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    mirrored = flip(image)
    np.testing.assert_array_equal(mirrored[:, 0], image[:, 3])
    np.testing.assert_array_equal(flip(mirrored), image)
    assert not np.shares_memory(mirrored, image)


def test_gray_weighs_the_channels_as_bt_601(image):
    expected = image.astype(float) @ [0.114, 0.587, 0.299]
    np.testing.assert_allclose(to_gray(image), np.repeat(expected[..., None], 3, 2), atol=1e-6)


def test_a_reference_is_mirrored_half_of_the_time_and_stays_near_itself():
    ramp = np.broadcast_to(np.linspace(60, 190, 16, dtype=np.uint8)[None, :, None], (16, 16, 3)).copy()
    mirrored = [augment_reference(ramp, rng_for(key)) for key in range(200)]
    share = np.mean([image[:, 0].mean() > image[:, -1].mean() for image in mirrored])
    assert abs(share - 0.5) < 0.15
    upright = [image for image in mirrored if image[:, 0].mean() < image[:, -1].mean()]
    assert max(np.abs(image.astype(float) - ramp).mean() for image in upright) < 50
    assert mirrored[0].dtype == np.uint8


def neutral(**changes: Any) -> ReferenceAugmentation:
    return ReferenceAugmentation(mirrored=False, jitter=ColorJitter(), **changes)


def test_a_drawn_reference_augmentation_has_the_stated_ranges_and_repeats():
    drawn = [ReferenceAugmentation.sample(rng_for(key)) for key in range(2000)]
    assert drawn[:20] == [ReferenceAugmentation.sample(rng_for(key)) for key in range(20)]
    for values, low, high in (
        ([a.turn for a in drawn], -np.deg2rad(2), np.deg2rad(2)),
        ([a.zoom for a in drawn], 0.95, 1.05),
        ([step for a in drawn for step in a.move], -0.05, 0.05),
        ([part for a in drawn for corner in a.corners or () for part in corner], 0, 0.2),
        ([a.jitter.contrast for a in drawn], 0.8, 1.2),
        ([a.jitter.hue for a in drawn], -0.02, 0.02),
    ):
        assert kstest(values, uniform(low, high - low).cdf).pvalue > 1e-3
    assert abs(np.mean([a.corners is not None for a in drawn]) - 0.5) < 4 * 0.5 / 2000**0.5
    assert abs(np.mean([a.mirrored for a in drawn]) - 0.5) < 4 * 0.5 / 2000**0.5


def test_a_neutral_reference_augmentation_changes_nothing_and_a_mirrored_one_flips():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(neutral().apply(image), image)
    np.testing.assert_array_equal(dataclasses.replace(neutral(), mirrored=True).apply(image), flip(image))


def test_turn_zoom_move_and_corners_bring_a_point_where_they_say():
    middle = np.array([31.5, 31.5, 1])
    np.testing.assert_allclose(neutral(move=(0.05, -0.02)).matrix(64) @ middle, middle + [3.2, -1.28, 0])
    right = np.array([61.5, 31.5, 1])
    np.testing.assert_allclose(neutral(turn=np.pi / 2, zoom=0.5).matrix(64) @ right, middle + [0, 15, 0])
    at = neutral(corners=((0.2, 0.1), (0, 0), (0, 0), (0, 0))).matrix(64) @ np.array([0, 0, 1])
    np.testing.assert_allclose(at[:2] / at[2], [6.4, 3.2], atol=1e-5)


def test_a_reference_is_moved_on_the_picture_as_its_matrix_says():
    dot = np.zeros((64, 64, 3), np.uint8)
    dot[40, 20] = 255
    moved = neutral(move=(4 / 64, -6 / 64)).apply(dot)
    assert np.unravel_index(moved[..., 0].argmax(), (64, 64)) == (34, 24)
