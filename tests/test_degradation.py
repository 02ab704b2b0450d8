"""Degradation: what is drawn, and that applying it is the released pipeline's arithmetic."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import cv2
import numpy as np
import pytest

from basicsr.data.augment import ColorJitter
from basicsr.data.blur_kernels import GaussianKernel
from basicsr.data.compression import VideoCompression, jpeg_round_trip
from basicsr.data.degradation import (
    Degradation,
    DegradationRanges,
    KernelKind,
    degraded_copies,
    scaled_kernel_size,
)
from basicsr.data.fused_blur import blur_and_resize
from basicsr.data.strokes import Stroke, draw_strokes
from basicsr.utils.errors import OptionError
from basicsr.utils.registry import SpecError, bind_arguments
from basicsr.utils.seed import rng_for


def drawn(**changes: object) -> Degradation:
    plain = Degradation(
        gt_size=48,
        kernel=GaussianKernel(15, 2.0, 4.0, 0.5),
        small_size=13,
        noise_sigma=12.0,
        noise_seed=5,
        jpeg_quality=55,
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def gaussian(d: Degradation) -> GaussianKernel:
    assert isinstance(d.kernel, GaussianKernel)
    return d.kernel


def reference_pipeline(image: np.ndarray, d: Degradation) -> np.ndarray:
    """Blur, down, noise, JPEG, up, round, each in its plainest form, float64 where there is a choice."""
    lq: Any = cv2.filter2D(image.astype(np.float64), -1, gaussian(d).weights(), borderType=cv2.BORDER_REFLECT_101)
    lq = cv2.resize(lq, (d.small_size, d.small_size), interpolation=cv2.INTER_LINEAR)
    if d.noise_sigma is not None:
        noise = rng_for(d.noise_seed).standard_normal(lq.shape, dtype=np.float32)
        lq = np.clip(lq + d.noise_sigma / 255 * noise, 0, 1)
    if d.jpeg_quality is not None:
        levels = np.clip(np.round(lq * 255), 0, 255).astype(np.uint8)
        code = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, d.jpeg_quality])[1]
        lq = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR)) / 255
    lq = cv2.resize(lq, (d.gt_size, d.gt_size), interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.clip(np.round(lq * 255), 0, 255))


@pytest.fixture
def image() -> np.ndarray:
    coarse = np.random.default_rng(3).random((6, 6, 3), dtype=np.float32)
    return np.clip(cv2.resize(coarse, (48, 48), interpolation=cv2.INTER_CUBIC), 0, 1)


@pytest.mark.parametrize("noise_sigma", [None, 12.0])
@pytest.mark.parametrize("jpeg_quality", [None, 55])
def test_apply_is_blur_down_noise_jpeg_up_round(image, noise_sigma, jpeg_quality):
    degradation = drawn(noise_sigma=noise_sigma, jpeg_quality=jpeg_quality)
    gap = np.abs(degradation.apply_to_bytes(image) - reference_pipeline(image, degradation))
    # a value that lies on a rounding edge may fall to the other side: one level, and rarely
    assert gap.max() <= 1
    assert (gap > 0).mean() < 0.01


def test_apply_gives_8_bit_levels_in_0_to_1(image):
    lq = drawn().apply(image)
    assert lq.dtype == np.float32
    assert lq.shape == image.shape
    np.testing.assert_array_equal(np.round(lq * 255).astype(np.float32) / np.float32(255), lq)
    np.testing.assert_array_equal(np.round(lq * 255), drawn().apply_to_bytes(image))


def test_applying_twice_gives_the_same_pixels_and_leaves_the_picture(image):
    before = image.copy()
    np.testing.assert_array_equal(drawn().apply(image), drawn().apply(image))
    np.testing.assert_array_equal(image, before)


def test_same_rng_gives_the_same_degradation_and_another_gives_another():
    ranges = DegradationRanges()
    assert ranges.sample(rng_for(1, 2), 512) == ranges.sample(rng_for(1, 2), 512)
    assert ranges.sample(rng_for(1, 2), 512) != ranges.sample(rng_for(1, 3), 512)


def test_draws_stay_within_the_ranges_at_512():
    ranges = DegradationRanges()
    rng = rng_for(0)
    for _ in range(300):
        d = ranges.sample(rng, 512)
        assert gaussian(d).size == 41
        assert 1 <= min(gaussian(d).sigma_x, gaussian(d).sigma_y) <= max(gaussian(d).sigma_x, gaussian(d).sigma_y) <= 15
        assert 512 // 30 <= d.small_size <= 512 // 4
        assert d.noise_sigma is not None
        assert 0 <= d.noise_sigma <= 20
        assert d.jpeg_quality is not None
        assert 30 <= d.jpeg_quality <= 80
        assert not d.gray


def test_kernel_kinds_come_with_their_probabilities():
    ranges, rng = DegradationRanges(kernel_prob=(0.8, 0.2)), rng_for(0)
    share = np.mean([gaussian(ranges.sample(rng, 512)).is_isotropic for _ in range(2000)])
    assert abs(share - 0.8) < 4 * np.sqrt(0.8 * 0.2 / 2000)  # four standard deviations


def test_blur_and_downsampling_scale_with_the_size_and_noise_and_jpeg_do_not():
    ranges = DegradationRanges()
    for key in range(50):
        big, small = ranges.sample(rng_for(key), 512), ranges.sample(rng_for(key), 64)
        assert gaussian(small).sigma_x == pytest.approx(gaussian(big).sigma_x / 8)
        assert gaussian(small).sigma_y == pytest.approx(gaussian(big).sigma_y / 8)
        assert (small.noise_sigma, small.jpeg_quality) == (big.noise_sigma, big.jpeg_quality)
        assert gaussian(small).angle == gaussian(big).angle
        # the factor is at least 1, so 64 px never shrink below 64 / (30 / 8) and never grow
        assert 64 // (30 / 8) <= small.small_size <= 64


@pytest.mark.parametrize(("size", "scale", "expected"), [(41, 1, 41), (41, 0.5, 21), (41, 0.125, 5), (41, 1 / 32, 3)])
def test_the_kernel_stays_odd_and_at_least_3(size, scale, expected):
    assert scaled_kernel_size(size, scale) == expected


def test_turning_noise_off_changes_nothing_else_of_what_is_drawn():
    with_noise = DegradationRanges().sample(rng_for(4), 512)
    without = DegradationRanges(noise_range=None).sample(rng_for(4), 512)
    assert dataclasses.replace(with_noise, noise_sigma=None) == without


def test_gray_has_three_equal_channels_of_the_luminance(image):
    color, gray = drawn().apply_to_bytes(image).astype(float), drawn(gray=True).apply_to_bytes(image)
    np.testing.assert_array_equal(gray[..., 0], gray[..., 2])
    assert np.abs(gray[..., 0] - color @ [0.114, 0.587, 0.299]).max() <= 1.01  # color is rounded before, gray after


def test_color_shift_moves_each_channel_by_its_own_amount(image):
    middle = image * 0.5 + 0.25  # far from the clip
    plain, shifted = drawn().apply_to_bytes(middle), drawn(color_shift=(3.0, -2.0, 7.0)).apply_to_bytes(middle)
    gap = np.abs(shifted.astype(int) - plain - [3, -2, 7])
    assert gap.max() <= 1  # a value on a rounding edge may fall to the other side
    assert (gap > 0).mean() < 0.01


def test_jitter_follows_gray(image):
    gray = drawn(gray=True).apply(image)
    lq = drawn(gray=True, jitter=ColorJitter(brightness=0.5)).apply(image)
    assert np.abs(lq - gray * 0.5).max() <= 1 / 255


def test_both_copies_share_whether_colors_change_but_not_the_degradation(image):
    gt = np.round(image * 255).astype(np.uint8)
    ranges = DegradationRanges(gray_prob=0.5)
    kinds = set()
    for key in range(30):
        copies = degraded_copies(gt, ranges, ranges, rng_for(key))
        grays = {name: bool((copy == copy[..., :1]).all()) for name, copy in copies.items()}
        assert grays["lq"] == grays["lq_large"]
        kinds.add(grays["lq"])
        assert not np.array_equal(copies["lq"], copies["lq_large"])
    assert kinds == {True, False}


def test_a_picture_of_another_size_is_refused(image):
    with pytest.raises(ValueError, match="drawn for 48 px"):
        drawn().apply(image[:40, :40])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_prob": (1.0,)}, "one probability for each kernel"),
        ({"kernel_prob": (0.5, 0.4)}, "with sum 1"),
        ({"kernel_prob": (1.5, -0.5)}, "kernel_prob"),
        ({"blur_kernel_size": 40}, "odd number"),
        ({"blur_sigma": (0.0, 3.0)}, "above 0"),
        ({"downsample_range": (8.0, 4.0)}, "low <= high"),
        ({"jpeg_range": (30.0, 101.0)}, "at most 100"),
        ({"hue": (-0.6, 0.1)}, "within -0.5 and 0.5"),
    ],
)
def test_impossible_ranges_name_their_option(arguments, message):
    with pytest.raises(OptionError, match=message):
        DegradationRanges(**arguments)


def test_yaml_values_become_ranges_and_a_typo_is_named():
    def target(degradation: DegradationRanges) -> None: ...

    target.__annotations__ = {"degradation": DegradationRanges}
    values = {"blur_sigma": [1, 10], "noise_range": None, "kernel_list": ["iso"], "kernel_prob": [1]}
    bound = bind_arguments(target, {"degradation": values})["degradation"]
    assert bound == DegradationRanges(
        blur_sigma=(1.0, 10.0), noise_range=None, kernel_list=("iso",), kernel_prob=(1.0,)
    )
    with pytest.raises(SpecError, match="noise_range"):
        bind_arguments(target, {"degradation": {"noise_rang": [0, 1]}})


def test_strokes_are_pure_white_and_leave_the_rest_untouched(image):
    gt = np.round(image * 200).astype(np.uint8)  # nothing white in it
    masked = degraded_copies(gt, DegradationRanges(gen_inpaint_mask=True), None, rng_for(2))["lq"]
    mask = (masked == 255).all(-1)
    assert 0.02 < mask.mean() < 0.98
    np.testing.assert_array_equal(masked[~mask], gt[~mask])


def test_a_stroke_is_its_lines_with_a_disc_at_every_vertex(image):
    masked = draw_strokes(np.zeros((48, 48, 3), np.uint8), (Stroke(((10, 10), (30, 10)), 8),))
    y, x = np.nonzero(masked[..., 0])
    distance = np.hypot(x - np.clip(x, 10, 30), y - 10)
    assert distance.max() <= 5
    inside = np.hypot(np.arange(48) - np.clip(np.arange(48), 10, 30), 0)
    assert masked[10][inside <= 3.5].min() == 255


def test_a_second_round_acts_on_the_small_picture_after_the_jpeg(image):
    second = drawn(gt_size=13, kernel=GaussianKernel(3, 0.7, 0.7), small_size=9, jpeg_quality=40)
    first = dataclasses.replace(drawn(), gt_size=48, small_size=13)
    lq = dataclasses.replace(first, second=second).apply_to_bytes(image)
    small = blur_and_resize(image, gaussian(first), 13)
    noise = rng_for(5).standard_normal(small.shape, dtype=np.float32)
    small = np.clip(small + np.float32(12 / 255) * noise, 0, 1)
    small = second.apply(jpeg_round_trip(np.round(small * 255).astype(np.uint8), 55).astype(np.float32) / 255)
    expected = np.round(cv2.resize(small * 255, (48, 48), interpolation=cv2.INTER_LINEAR))
    assert np.abs(lq - expected).max() <= 1


def test_video_compression_of_one_generation_on_the_grid_is_a_jpeg(image):
    picture = np.round(image * 255).astype(np.uint8)
    np.testing.assert_array_equal(VideoCompression(30, ((0, 0),)).apply(picture), jpeg_round_trip(picture, 30))


def test_errors_of_a_video_pile_up_and_its_colours_are_coarser_than_its_light(rng):
    picture = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    grown = [
        np.abs(VideoCompression(40, ((3, 5), (9, 2), (14, 11), (6, 6))[:count]).apply(picture).astype(int) - picture)
        for count in (1, 4)
    ]
    assert grown[1].mean() > grown[0].mean()
    before, after = (
        cv2.cvtColor(p, cv2.COLOR_BGR2YCrCb).astype(float)
        for p in (picture, VideoCompression(95, ((3, 5),)).apply(picture))
    )
    lost = np.abs(after - before).mean((0, 1))
    assert min(lost[1:]) > 2 * lost[0]  # 4:2:0


def test_every_kind_and_extra_is_a_function_of_its_key(image):
    gt = np.round(image * 255).astype(np.uint8)
    ranges = DegradationRanges(
        kernel_list=get_args(KernelKind), kernel_prob=(1 / 8,) * 8, second_order_prob=0.5, video_prob=0.5
    )
    once, again = ([degraded_copies(gt, ranges, ranges, rng_for(9, key)) for key in range(25)] for _ in range(2))
    for one, other in zip(once, again, strict=True):
        np.testing.assert_array_equal(one["lq"], other["lq"])
        np.testing.assert_array_equal(one["lq_large"], other["lq_large"])
