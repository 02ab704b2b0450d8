"""What is drawn has the distribution that the options state (the released pipeline's for the defaults): ranges,
uniformity, shares. Fixed seeds; Kolmogorov-Smirnov at p > 0.001, shares within four standard deviations.
"""

from __future__ import annotations

import dataclasses
from typing import get_args

import numpy as np
import pytest
from scipy import stats

from basicsr.data.blur_kernels import GaussianKernel, MotionKernel
from basicsr.data.degradation import Degradation, DegradationRanges, KernelKind
from basicsr.utils.errors import OptionError
from basicsr.utils.seed import rng_for

NUM = 1500
KINDS = get_args(KernelKind)


def draws(ranges: DegradationRanges, num: int = NUM, size: int = 512) -> list[Degradation]:
    return [ranges.sample(rng_for(17, 0, index), size) for index in range(num)]


def only(kind: str, **options: object) -> list[GaussianKernel]:
    """Kernels of one kind of the Gaussian's family."""
    kernels = [d.kernel for d in draws(DegradationRanges(kernel_list=(kind,), kernel_prob=(1.0,), **options))]  # type: ignore[arg-type]
    assert all(isinstance(kernel, GaussianKernel) for kernel in kernels)
    return kernels  # type: ignore[return-value]


def kind_of(kernel: object) -> str:
    if isinstance(kernel, MotionKernel):
        return "motion"
    assert isinstance(kernel, GaussianKernel)
    shape = "iso" if kernel.is_isotropic else "aniso"
    return {"gaussian": shape, "skew": "skew"}.get(kernel.family, f"{kernel.family}_{shape}")


def assert_uniform(values: object, low: float, high: float) -> None:
    array = np.asarray(values, float)
    assert low <= array.min() <= array.max() <= high
    assert stats.kstest(array, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def assert_share(hits: object, expected: float) -> None:
    array = np.asarray(hits, bool)
    assert abs(array.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / len(array))


@pytest.fixture(scope="module")
def plain() -> list[Degradation]:
    return draws(DegradationRanges())


def test_sigmas_and_angle_are_uniform_and_independent(plain):
    aniso = only("aniso")
    assert_uniform([k.sigma_x for k in aniso], 1, 15)
    assert_uniform([k.sigma_y for k in aniso], 1, 15)
    assert_uniform([k.angle for k in aniso], -np.pi, np.pi)
    assert stats.spearmanr([k.sigma_x for k in aniso], [k.sigma_y for k in aniso]).pvalue > 1e-3
    assert_share([d.kernel.is_isotropic for d in plain], 0.5)


def test_noise_and_quality_are_uniform(plain):
    assert_uniform([d.noise_sigma for d in plain], 0, 20)
    qualities = np.array([d.jpeg_quality for d in plain])
    assert set(qualities) <= set(range(30, 80))  # rounded down: the upper end itself has probability 0
    assert stats.chisquare(np.bincount(qualities - 30, minlength=50)).pvalue > 1e-3


def test_the_small_side_is_that_of_a_uniform_factor(plain):
    sides = np.array([d.small_size for d in plain])
    assert 17 <= sides.min() <= sides.max() <= 128
    # int(512 // s) <= n  <=>  s > 512 / (n + 1), s uniform on [4, 30]
    limits = np.array([18, 20, 25, 32, 48, 64, 100])
    expected = np.clip((30 - 512 / (limits + 1)) / 26, 0, 1)
    got = (sides[:, None] <= limits).mean(0)
    assert np.abs(got - expected).max() < 4 * np.sqrt(0.25 / NUM)


def test_every_kind_comes_with_its_probability():
    prob = (0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05)
    kinds = [kind_of(d.kernel) for d in draws(DegradationRanges(kernel_list=KINDS, kernel_prob=prob))]
    counts = [kinds.count(kind) for kind in KINDS]
    assert sum(counts) == NUM
    assert stats.chisquare(counts, np.array(prob) * NUM).pvalue > 1e-3


def test_beta_is_uniform_for_iso_and_half_below_1_for_aniso():
    assert_uniform([k.beta for k in only("generalized_iso", betag_range=(0.5, 4.0))], 0.5, 4)
    for kind, key in (("generalized_aniso", "betag_range"), ("plateau_aniso", "betap_range")):
        betas = np.array([k.beta for k in only(kind, **{key: (0.5, 4.0)})])
        assert_share(betas < 1, 0.5)
        assert_uniform(betas[betas < 1], 0.5, 1)
        assert_uniform(betas[betas >= 1], 1, 4)
    assert_uniform([k.beta for k in only("plateau_aniso", betap_range=(1.0, 2.0))], 1, 2)


def test_motion_has_a_uniform_direction_and_length():
    ranges = DegradationRanges(kernel_list=("motion",), kernel_prob=(1.0,), motion_length=(5.0, 35.0))
    kernels = [d.kernel for d in draws(ranges)]
    assert_uniform([k.angle for k in kernels if isinstance(k, MotionKernel)], -np.pi, np.pi)
    assert_uniform([k.length for k in kernels if isinstance(k, MotionKernel)], 5, 35)


def test_skew_is_uniform_along_both_axes():
    slants = np.array([k.skew for k in only("skew", skew_range=(-2.0, 3.0))])
    assert_uniform(slants[:, 0], -2, 3)
    assert_uniform(slants[:, 1], -2, 3)


def test_colors_change_with_their_probabilities_and_in_their_ranges():
    drawn = draws(DegradationRanges(gray_prob=0.01, color_jitter_prob=0.3, color_jitter_pt_prob=0.3))
    assert_share([d.gray for d in drawn], 0.01)
    assert_share([d.color_shift is not None for d in drawn], 0.3)
    assert_share([d.jitter is not None for d in drawn], 0.3)
    assert_uniform(np.concatenate([d.color_shift for d in drawn if d.color_shift]), -20, 20)
    jitters = [d.jitter for d in drawn if d.jitter]
    for name, low, high in (
        ("brightness", 0.5, 1.5),
        ("contrast", 0.5, 1.5),
        ("saturation", 0, 1.5),
        ("hue", -0.1, 0.1),
    ):
        assert_uniform([getattr(jitter, name) for jitter in jitters], low, high)
    orders = [jitter.order for jitter in jitters]
    assert len(set(orders)) == 24


def test_extras_come_with_their_probabilities_and_ranges():
    drawn = draws(DegradationRanges(second_order_prob=0.4, video_prob=0.25, video_quality=(10.0, 30.0)))
    assert_share([d.second is not None for d in drawn], 0.4)
    assert_share([d.video is not None for d in drawn], 0.25)
    assert_share([d.second is not None for d in drawn if d.video], 0.4)  # independent of each other
    seconds = [(d.small_size, d.second) for d in drawn if d.second]
    assert all(second.gt_size == side and side / 3 - 1 <= second.small_size <= side for side, second in seconds)
    assert_uniform([second.noise_sigma for _, second in seconds], 0, 10)
    videos = [d.video for d in drawn if d.video]
    assert {video.quality for video in videos} == set(range(10, 30))
    assert {len(video.offsets) for video in videos} == {2, 3, 4, 5, 6}
    assert {x for video in videos for x, _ in video.offsets} == set(range(16))


def test_strokes_are_those_of_the_released_brush():
    drawn = draws(DegradationRanges(gen_inpaint_mask=True), num=400)
    assert stats.chisquare(np.bincount([len(d.strokes) for d in drawn])[1:]).pvalue > 1e-3
    strokes = [stroke for d in drawn for stroke in d.strokes]
    assert {len(stroke.vertices) for stroke in strokes} == set(range(8, 28))
    assert {stroke.width for stroke in strokes} <= set(range(30, 70))
    points = np.concatenate([stroke.vertices for stroke in strokes])
    assert points.min() >= 0
    assert points.max() <= 512
    starts = np.array([stroke.vertices[0] for stroke in strokes])
    assert stats.kstest(starts.ravel() + 0.5, stats.uniform(0, 512).cdf).pvalue > 1e-3
    angles, lengths = steps_inside(strokes)
    mean, spread = 2 * np.pi / 5, 2 * np.pi / 12
    assert np.abs(np.abs(angles) - mean).max() < spread + 0.3  # vertices are whole px
    assert (
        0.45 < (angles > 0).mean() < 0.58
    )  # to and fro; of an even number of vertices the odd ones have one more line
    assert -10 < np.median(lengths) - np.hypot(512, 512) / 8 < 3  # long ones meet the edge more often


def steps_inside(strokes: list) -> tuple[np.ndarray, np.ndarray]:
    """Angles and lengths of the lines that the picture's edge has not bent; short ones have no angle to speak of."""
    lines = np.concatenate([np.stack([s.vertices[:-1], s.vertices[1:]], axis=1) for s in strokes])
    lines = lines[((lines > 0) & (lines < 511)).all(axis=(1, 2))]
    step = (lines[:, 1] - lines[:, 0]).astype(float)
    lengths = np.hypot(*step.T)
    angles = np.arctan2(step[:, 1], step[:, 0])
    return angles[lengths > 20], lengths


def test_an_extra_moves_no_other_draw():
    plain = DegradationRanges().sample(rng_for(3), 512)
    more = DegradationRanges(second_order_prob=1.0, video_prob=1.0).sample(rng_for(3), 512)
    assert more.second is not None
    assert more.video is not None
    assert dataclasses.replace(more, second=None, video=None) == plain
    motion = DegradationRanges(kernel_list=("motion",), kernel_prob=(1.0,)).sample(rng_for(3), 512)
    assert dataclasses.replace(motion, kernel=None) == dataclasses.replace(plain, kernel=None)
    masked = DegradationRanges(gen_inpaint_mask=True).sample(rng_for(3), 512)
    assert masked.noise_seed == plain.noise_seed


def test_the_draws_of_the_defaults_stay_what_they_were():
    # written down when there were two kinds of kernel and no extras: a training goes on with the same pictures
    first, second = (DegradationRanges(gray_prob=0.4).sample(rng_for(11, key), 512) for key in (0, 2))
    assert first == Degradation(
        gt_size=512,
        kernel=GaussianKernel(41, 7.989890074161609, 7.989890074161609, -2.961334297709639),
        small_size=65,
        noise_sigma=18.56422045920739,
        noise_seed=1176290586,
        jpeg_quality=36,
    )
    assert second == Degradation(
        gt_size=512,
        kernel=GaussianKernel(41, 6.546185178598874, 9.300066989375605, -1.3735716707497603),
        small_size=17,
        noise_sigma=3.3746282599181443,
        noise_seed=605282690,
        jpeg_quality=71,
        gray=True,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"betag_range": (0.0, 1.0)}, "betag_range: starts at 0"),
        ({"second_blur_sigma": (3.0, 1.0)}, "second_blur_sigma.*low <= high"),
        ({"second_jpeg_range": (1.0, 101.0)}, "second_jpeg_range.*at most 100"),
        ({"video_quality": (1.0, 101.0)}, "video_quality.*at most 100"),
        ({"video_generations": (0, 3)}, "video_generations.*1 <= fewest"),
        ({"skew_range": (1.0, -1.0)}, "skew_range"),
        ({"motion_length": (9.0, 3.0)}, "motion_length"),
        ({"stroke_width": (9.0, 3.0)}, "stroke_width"),
        ({"second_order_prob": 1.5}, "second_order_prob: found 1.5, expected 0 to 1"),
        ({"gray_prob": -0.1}, "gray_prob: found -0.1, expected 0 to 1"),
    ],
)
def test_impossible_extras_name_their_option(arguments, message):
    with pytest.raises(OptionError, match=message):
        DegradationRanges(**arguments)
