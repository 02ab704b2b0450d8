"""The crop: its constants against the templates, its sampling against torch, its place against drawn dots.

By the fixed window of FFHQ-framed faces, and by landmarks for any other picture.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from basicsr.faces.align import ARCFACE_112, FFHQ_512, umeyama_similarity
from basicsr.recognizers.crop import (
    _normalized,
    _resample_matrix,
    crop_to_template,
    template_points,
    template_window,
)
from basicsr.utils.errors import ImageFileError


def dots_at(points: np.ndarray, size: int, sigma: float) -> torch.Tensor:
    """One channel (1, 5, S, S) per landmark, with a Gaussian dot of `sigma` px at it, at S/512 of the template."""
    return dots((points + 0.5) * size / 512 - 0.5, size, sigma)


def dots(points: np.ndarray, size: int, sigma: float) -> torch.Tensor:
    """One channel (1, 5, S, S) per landmark, with a Gaussian dot of `sigma` px at it."""
    centers = torch.from_numpy(points).float()
    axis = torch.arange(size).float()
    x = (-((axis - centers[:, :1]) ** 2) / (2 * sigma**2)).exp()  # (5, S)
    y = (-((axis - centers[:, 1:]) ** 2) / (2 * sigma**2)).exp()
    return (y[:, :, None] * x[:, None, :])[None]


def centroids(images: torch.Tensor) -> np.ndarray:
    """Centres of mass (5, 2) x, y of (1, 5, H, W)."""
    mass = images[0].clamp(min=0)
    total = mass.sum((1, 2))
    x = (mass.sum(1) * torch.arange(mass.shape[2])).sum(1) / total
    y = (mass.sum(2) * torch.arange(mass.shape[1])).sum(1) / total
    return torch.stack([x, y], 1).numpy()


def test_window_is_the_least_squares_similarity_of_the_two_templates_to_half_a_pixel_of_112():
    matrix = umeyama_similarity(FFHQ_512, ARCFACE_112)
    assert matrix[0, 0] == pytest.approx(0.29209, abs=1e-5)
    assert matrix[:, 2] == pytest.approx([-18.930, -17.860], abs=2e-3)
    inverse = np.linalg.inv(matrix[:, :2])
    edges = [inverse @ (np.array(corner) - matrix[:, 2]) + 0.5 for corner in ((-0.5, -0.5), (111.5, 111.5))]
    window = template_window(512)
    assert window == (64, 61, 448, 445)
    assert np.abs(np.concatenate(edges) - window).max() < 1.6  # px of 512; less than half a pixel of 112


def test_landmarks_of_an_ffhq_face_land_within_two_pixels_of_the_arcface_template_on_average():
    found = centroids(crop_to_template(dots_at(FFHQ_512, 512, 6.0)))
    error = np.linalg.norm(found - ARCFACE_112, axis=1)
    assert error.mean() < 1.9  # 1.8: what is left of the best similarity, the templates differ in shape
    assert error.max() < 2.9


@pytest.mark.parametrize("size", [64, 100, 128, 256, 1024])
def test_landmarks_land_on_the_same_place_whatever_the_size_of_the_face(size: int):
    expected = centroids(crop_to_template(dots_at(FFHQ_512, 512, 12.0)))
    found = centroids(crop_to_template(dots_at(FFHQ_512, size, 12.0 * size / 512)))
    assert np.abs(found - expected).max() < 0.05


def test_template_of_112x96_is_the_square_one_with_eight_columns_less_on_each_side():
    face = torch.randn(1, 3, 512, 512)
    torch.testing.assert_close(
        crop_to_template(face, (112, 96), (-8.0, 0.0)), crop_to_template(face)[..., 8:104], atol=1e-5, rtol=0
    )


def test_template_of_half_the_size_sees_the_same_window():
    assert template_window(512, (56, 56)) == template_window(512)
    assert template_window(64, (48, 48)) == (8.0, 7.625, 56.0, 55.625)


@pytest.mark.parametrize(("size", "out"), [(64, 48), (48, 64), (100, 37)])
def test_sampling_equals_torch_antialiased_bicubic_where_the_window_is_the_whole_picture(size: int, out: int):
    image = torch.randn(1, 1, size, size)
    weights = _resample_matrix(size, out, 0.0, float(size), torch.device("cpu"))
    expected = F.interpolate(image, size=(out, out), mode="bicubic", antialias=True, align_corners=False)
    torch.testing.assert_close(
        weights @ image @ weights.T, expected, atol=2e-5, rtol=0
    )  # torch rounds its weights elsewhere


def test_a_window_between_pixels_samples_a_ramp_at_its_exact_place():
    ramp = torch.arange(64).float()
    weights = _resample_matrix(64, 20, 7.3, 47.3, torch.device("cpu"))
    expected = 7.3 + (torch.arange(20) + 0.5) * 2 - 0.5
    torch.testing.assert_close(weights @ ramp, expected, atol=1e-4, rtol=0)


def test_stripes_finer_than_the_input_vanish_instead_of_aliasing():
    stripes = torch.ones(1, 1, 512, 512)
    stripes[..., ::2] = -1
    assert crop_to_template(stripes, (56, 56)).abs().max() < 0.02


def test_gradient_reaches_every_pixel_of_the_window_and_none_far_outside():
    face = torch.zeros(1, 1, 512, 512, requires_grad=True)
    crop_to_template(face).sum().backward()
    assert face.grad is not None
    assert (face.grad[0, 0, 70:440, 70:440] > 0).all()
    assert (face.grad[0, 0, :50] == 0).all()


def test_crop_seen_first_without_gradients_serves_a_later_backward():
    _resample_matrix.cache_clear()
    with torch.inference_mode():
        crop_to_template(torch.zeros(1, 3, 40, 40))
    face = torch.zeros(1, 3, 40, 40, requires_grad=True)
    crop_to_template(face).sum().backward()
    assert face.grad is not None


def test_a_face_that_is_not_square_is_refused_by_its_size():
    with pytest.raises(ImageFileError, match="64x48"):
        crop_to_template(torch.zeros(1, 3, 48, 64))


def face_points(scale: float, degrees: float, x: float, y: float) -> np.ndarray:
    """The ArcFace landmarks as they lie in a picture: `scale` px of it per px of the template, turned, moved."""
    angle = math.radians(degrees)
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return ARCFACE_112 @ turn.T + (x, y)


def as_landmarks(*samples: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(samples))


@pytest.mark.parametrize(
    ("scale", "degrees", "x", "y"), [(1.0, 0, 3, 5), (3.4, 30, 200, 20), (0.6, -75, 20, 90), (2.2, 180, 350, 300)]
)
def test_landmarks_land_on_the_template_whatever_the_size_and_the_angle(
    scale: float, degrees: float, x: float, y: float
):
    points = face_points(scale, degrees, x, y)
    found = centroids(crop_to_template(dots(points, 560, 2 * scale), landmarks=as_landmarks(points)))
    assert np.abs(found - ARCFACE_112).max() < 0.02


def test_each_picture_of_a_batch_has_its_own_similarity():
    samples = [face_points(2.0, 20, 80, 10), face_points(1.1, -10, 30, 60), face_points(2.9, 5, 5, 5)]
    pictures = torch.cat([dots(points, 360, 4.0) for points in samples])
    together = crop_to_template(pictures, (112, 96), (-8.0, 0.0), landmarks=as_landmarks(*samples))
    for i, points in enumerate(samples):
        found = centroids(together[i : i + 1])
        assert np.abs(found - (ARCFACE_112 - (8, 0))).max() < 0.05
        alone = crop_to_template(pictures[i : i + 1], (112, 96), (-8.0, 0.0), landmarks=as_landmarks(points))
        torch.testing.assert_close(together[i : i + 1], alone, atol=0.02, rtol=0)  # sampled finer beside a larger face


def natural_picture(size: int) -> torch.Tensor:
    """Noise with the spectrum of a photograph, about [-1, 1], (1, 3, size, size)."""
    frequency = torch.fft.fftfreq(size)[:, None].square() + torch.fft.rfftfreq(size).square()
    spectrum = torch.fft.rfft2(torch.randn(1, 3, size, size)) / frequency.clamp(min=1 / size**2).sqrt()
    picture = torch.fft.irfft2(spectrum, s=(size, size))
    return picture / picture.abs().max()


@pytest.mark.parametrize("size", [96, 300, 512])
def test_landmarks_that_lie_as_the_window_says_give_the_fixed_crop(size: int):
    step = 384 / 112 * size / 512
    points = (ARCFACE_112 + 0.5) * step + np.array([64, 61]) * size / 512 - 0.5
    face = natural_picture(size)
    difference = (crop_to_template(face) - crop_to_template(face, landmarks=as_landmarks(points))).abs()
    # of a range of 2: pixels are interpolated once more, then shrunk by the same kernel; the smallest face is enlarged
    # instead, by torch's own cubic (-.75, here -.5)
    assert difference.max() < (0.08 if size < 149 else 0.05)
    assert difference.mean() < (0.01 if size < 149 else 0.003)


def test_template_landmarks_of_ffhq_give_the_fixed_crop_to_half_a_pixel():
    """The window is a rounded similarity: 1.6 px of 512 at the corners, .47 px of 112."""
    by_landmarks = centroids(crop_to_template(dots_at(FFHQ_512, 512, 6.0), landmarks=as_landmarks(FFHQ_512)))
    by_window = centroids(crop_to_template(dots_at(FFHQ_512, 512, 6.0)))
    assert np.abs(by_landmarks - by_window).max() < 0.5


def test_theta_of_the_ffhq_template_is_the_published_one():
    matrix = np.vstack([umeyama_similarity(FFHQ_512, ARCFACE_112), [0, 0, 1]])
    theta = _normalized(512, 512) @ np.linalg.inv(matrix) @ np.linalg.inv(_normalized(112, 112))
    expected = [[0.748913, -1.1e-4, -0.002809], [1.1e-4, 0.748913, -0.016819]]
    np.testing.assert_allclose(theta[:2], expected, atol=2e-5)


def test_whole_face_template_by_landmarks_is_the_shrunk_face():
    face = torch.randn(1, 3, 512, 512)
    expected = F.interpolate(face, size=(128, 128), mode="bicubic", antialias=True, align_corners=False)
    for landmarks in (None, as_landmarks(FFHQ_512)):
        found = crop_to_template(face, (128, 128), template="ffhq_512", landmarks=landmarks)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_template_points_are_the_templates_at_the_size_of_the_input():
    np.testing.assert_allclose(template_points(), ARCFACE_112)
    np.testing.assert_allclose(template_points((112, 96), (-8.0, 0.0)), ARCFACE_112 - (8, 0))
    np.testing.assert_allclose(template_points((128, 128), template="ffhq_512"), (FFHQ_512 + 0.5) / 4 - 0.5)
    assert ARCFACE_112[1, 0] == 73.5318  # 72.5318 is a typo that goes around


@pytest.mark.parametrize(("degrees", "x"), [(0, 100), (30, 200)])
def test_stripes_finer_than_the_input_vanish_by_landmarks_too(degrees: float, x: float):
    stripes = torch.ones(1, 1, 512, 512)
    stripes[..., ::2] = -1
    points = face_points(2.6, degrees, x, 40)
    assert crop_to_template(stripes, landmarks=as_landmarks(points)).abs().max() < 0.1  # .07 at the pixel limit
    plain = F.interpolate(stripes, scale_factor=1 / 2.6, mode="bicubic", align_corners=False)
    assert plain.abs().max() > 0.5  # what sampling without a wide kernel makes of them


def test_gradient_by_landmarks_is_the_finite_difference():
    points = as_landmarks(face_points(0.35, 25, 20, 4), face_points(0.2, -50, 5, 25))
    faces = torch.randn(2, 1, 48, 40, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: crop_to_template(x, (16, 16), landmarks=points), faces, fast_mode=True)


def test_half_precision_pictures_are_sampled_in_float32():
    face = torch.randn(1, 3, 64, 64).bfloat16()
    points = as_landmarks(face_points(0.4, 10, 10, 5))
    for landmarks in (None, points):
        found = crop_to_template(face, landmarks=landmarks)
        assert torch.equal(found, crop_to_template(face.float(), landmarks=landmarks))


@pytest.mark.parametrize(
    ("points", "why"),
    [
        (np.full((5, 2), 30.0), "picture 1"),
        (np.where(np.eye(5, 2) > 0, np.nan, ARCFACE_112), "picture 1.*nan"),
        (ARCFACE_112 / 512, "picture 1.*crop of 0.219 px"),
        (ARCFACE_112 * 1000, "picture 1.*64x80 px give a crop of"),
    ],
    ids=["coincide", "nan", "0..1", "elsewhere"],
)
def test_landmarks_that_make_no_sense_are_refused_by_the_picture(points: np.ndarray, why: str):
    with pytest.raises(ImageFileError, match=why) as caught:
        crop_to_template(torch.zeros(2, 3, 80, 64), landmarks=as_landmarks(ARCFACE_112 / 2, points))
    assert "\n" not in str(caught.value)


def test_landmarks_of_another_shape_are_refused():
    with pytest.raises(ImageFileError, match=r"\(2, 5, 2\)"):
        crop_to_template(torch.zeros(2, 3, 64, 64), landmarks=torch.zeros(5, 2))
