"""Gaussian kernels against their equation, and the fused blur and resize against OpenCV's two calls."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch

from basicsr.data import fused_blur
from basicsr.data.blur_kernels import RANK_TOLERANCE, BlurKernel, GaussianKernel, MotionKernel
from basicsr.data.fused_blur import blur_and_resize, sampling_matrix

KERNELS = [
    GaussianKernel(41, 7.0, 7.0),
    GaussianKernel(41, 5.0, 9.0, 0.7),
    GaussianKernel(41, 2.0, 10.0, -2.5),
    GaussianKernel(21, 1.0, 15.0, math.pi / 4),
    GaussianKernel(13, 0.05, 0.3, 1.0),
]
RELATIVES = [
    GaussianKernel(41, 6.0, 6.0, 0.0, "generalized", beta=0.6),
    GaussianKernel(41, 5.0, 9.0, 0.7, "generalized", beta=4.0),
    GaussianKernel(41, 5.0, 9.0, -1.2, "plateau", beta=2.0),
    GaussianKernel(41, 4.0, 6.0, 0.4, "skew", skew=(3.0, -1.0)),
    MotionKernel(41, 25.0, 0.5),
]


def two_opencv_calls(image: np.ndarray, kernel: BlurKernel, side: int) -> np.ndarray:
    blurred = cv2.filter2D(image, -1, kernel.weights(), borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(cv2.resize(blurred, (side, side), interpolation=cv2.INTER_LINEAR))


def test_kernel_is_the_normal_density_of_its_covariance():
    kernel = GaussianKernel(7, 1.5, 0.8, 0.6)
    rotation = np.array([[math.cos(0.6), -math.sin(0.6)], [math.sin(0.6), math.cos(0.6)]])
    inverse = np.linalg.inv(rotation @ np.diag([1.5**2, 0.8**2]) @ rotation.T)
    expected = np.empty((7, 7))
    for row in range(7):
        for column in range(7):
            v = np.array([column - 3, row - 3])
            expected[row, column] = math.exp(-0.5 * v @ inverse @ v)
    np.testing.assert_allclose(kernel.weights(), expected / expected.sum(), atol=1e-15)


def test_an_isotropic_kernel_is_the_outer_product_of_its_line():
    kernel = GaussianKernel(9, 1.3, 1.3, 0.9)
    line = kernel.line()
    assert line is not None
    np.testing.assert_allclose(np.outer(line, line), kernel.weights(), atol=1e-15)


@pytest.mark.parametrize("kernel", [*KERNELS, *RELATIVES], ids=str)
def test_factors_add_up_to_the_kernel_within_the_tolerance(kernel: BlurKernel):
    columns, rows = kernel.factors()
    assert np.abs(columns.T @ rows - kernel.weights()).sum() <= RANK_TOLERANCE


@pytest.mark.parametrize("side", [1, 9, 17, 50, 64])
@pytest.mark.parametrize("kernel", [*KERNELS, *RELATIVES], ids=str)
def test_fused_blur_and_resize_equals_two_opencv_calls(
    kernel: BlurKernel, side: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fused_blur, "MAX_COST_ISO", np.inf)  # fused whatever it costs
    monkeypatch.setattr(fused_blur, "MAX_COST_ANISO", np.inf)
    image = rng.random((64, 64, 3), dtype=np.float32)
    ours, plain = blur_and_resize(image, kernel, side), two_opencv_calls(image, kernel, side)
    np.testing.assert_allclose(ours, plain, atol=RANK_TOLERANCE + 1e-6)  # and float32's own rounding


def test_separable_fallback_equals_two_opencv_calls(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fused_blur, "MAX_COST_ISO", 0)
    image = rng.random((64, 64, 3), dtype=np.float32)
    ours = blur_and_resize(image, KERNELS[0], 50)
    np.testing.assert_allclose(ours, two_opencv_calls(image, KERNELS[0], 50), atol=1e-5)


def test_a_bright_pixel_at_the_border_is_not_counted_twice():
    # border reflected without its edge pixel: the line through a picture that is 1 at the edge keeps its sum there
    line = np.array([[0.25, 0.5, 0.25]])
    matrix, _, _ = sampling_matrix(line, size=4, side=4)
    np.testing.assert_allclose(
        matrix[:, 0], [[0.5, 0.5, 0, 0], [0.25, 0.5, 0.25, 0], [0, 0.25, 0.5, 0.25], [0, 0, 0.5, 0.5]]
    )


def test_the_band_of_a_sampling_matrix_holds_all_its_weights(rng: np.random.Generator):
    for size, side, length in ((64, 9, 41), (64, 64, 21), (50, 7, 13), (512, 17, 41)):
        matrix, first, last = sampling_matrix(rng.random((2, length)), size, side)
        for point in range(side):
            outside = np.ones(size, bool)
            outside[first[point] : last[point]] = False
            assert np.all(matrix[point][:, outside] == 0)


def moments(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (x, y) and covariance of a kernel, from the middle."""
    axis = np.arange(len(weights)) - len(weights) // 2
    points = np.stack([grid.ravel() for grid in np.meshgrid(axis, axis)])
    mean = points @ weights.ravel()
    return mean, (points - mean[:, None]) * weights.ravel() @ (points - mean[:, None]).T


@pytest.mark.parametrize("kernel", [*KERNELS, *RELATIVES], ids=str)
def test_weights_are_positive_with_sum_1_and_lie_in_the_middle(kernel: BlurKernel):
    weights = kernel.weights()
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert np.abs(moments(weights)[0]).max() < 0.2  # the skewed one loses a little of its long side at the edge


@pytest.mark.parametrize(("family", "beta"), [("generalized", 0.5), ("generalized", 3.0), ("plateau", 2.0)])
def test_relatives_of_the_gaussian_are_their_equations(family, beta):
    weights = GaussianKernel(9, 1.5, 0.8, 0.6, family, beta).weights()
    rotation = np.array([[math.cos(0.6), -math.sin(0.6)], [math.sin(0.6), math.cos(0.6)]])
    inverse = np.linalg.inv(rotation @ np.diag([1.5**2, 0.8**2]) @ rotation.T)
    expected = np.empty((9, 9))
    for row in range(9):
        for column in range(9):
            q = (v := np.array([column - 4, row - 4])) @ inverse @ v
            expected[row, column] = 1 / (1 + q**beta) if family == "plateau" else math.exp(-0.5 * q**beta)
    np.testing.assert_allclose(weights, expected / expected.sum(), atol=1e-15)


def test_beta_1_and_no_skew_are_the_gaussian():
    plain = GaussianKernel(21, 3.0, 5.0, 0.3).weights()
    for relative in ({"family": "generalized", "beta": 1.0}, {"family": "skew"}):
        np.testing.assert_allclose(GaussianKernel(21, 3.0, 5.0, 0.3, **relative).weights(), plain, atol=1e-15)


def test_a_skewed_kernel_has_its_long_side_where_it_slants_to():
    weights = GaussianKernel(41, 4.0, 4.0, 0.0, "skew", skew=(4.0, 0.0)).weights()
    x = np.arange(41) - 20
    assert weights.sum(0) @ x**3 > 5 * abs(weights.sum(1) @ x**3)
    assert weights.sum(0) @ x**3 > 0


@pytest.mark.parametrize("angle", [0.0, 0.4, math.pi / 4, math.pi / 2, 2.0, -1.0])
def test_a_motion_kernel_lies_along_its_angle_and_has_the_length_of_its_line(angle):
    _, covariance = moments(MotionKernel(41, 24.0, angle).weights())
    values, vectors = np.linalg.eigh(covariance)
    assert abs(vectors[:, 1] @ [math.cos(angle), math.sin(angle)]) > math.cos(math.radians(0.5))
    # a uniform density on a line has the variance length^2 / 12; sharing out bilinearly adds less than 1/4 px^2
    assert abs(values[1] - 24**2 / 12) < 0.5
    assert values[0] < 0.25


def test_a_motion_longer_than_the_kernel_is_cut_off_at_its_edge():
    weights = MotionKernel(9, 50.0, 0.0).weights()
    np.testing.assert_array_equal(weights, MotionKernel(9, 8.0, 0.0).weights())
    assert weights[4, 0] > 0
    assert weights[4, 8] > 0


def test_an_even_size_is_refused():
    with pytest.raises(ValueError, match="odd size"):
        GaussianKernel(4, 1.0, 1.0)


def test_the_number_of_threads_changes_no_bit_and_is_left_as_found(rng: np.random.Generator):
    image = rng.random((256, 256, 3), dtype=np.float32)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(blur_and_resize(image, KERNELS[1], 30))
        assert torch.get_num_threads() == threads
    np.testing.assert_array_equal(results[0], results[1])
