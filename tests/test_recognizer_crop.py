"""The fixed crop: its constants against the templates, its sampling against torch, its place against drawn dots."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from basicsr.faces.align import ARCFACE_112, FFHQ_512, umeyama_similarity
from basicsr.recognizers.crop import _resample_matrix, crop_to_template, template_window
from basicsr.utils.errors import ImageFileError


def dots_at(points: np.ndarray, size: int, sigma: float) -> torch.Tensor:
    """One channel (1, 5, S, S) per landmark, with a Gaussian dot of `sigma` px at it, at S/512 of the template."""
    centers = torch.from_numpy((points + 0.5) * size / 512 - 0.5).float()
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
