"""Colour drift: CIE Lab and CIEDE2000 against scikit-image, the face region, what moves the figure and what not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from basicsr.metrics.color_metric import (
    ColorDifferenceMetric,
    ciede2000,
    face_colors,
    face_mask,
    linear_light,
    linear_to_lab,
)
from basicsr.utils.img_util import img2tensor

skimage_color = pytest.importorskip("skimage.color", reason="scikit-image is the oracle (pip install -e .[dev])")

# Lab pairs and their difference as published (Sharma et al. 2005, table 1): near gray, hues on both sides of 0 and
# 180 degrees, the turned ellipses of blue, dark colours
PUBLISHED = [
    ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
    ((50.0, -1.3802, -84.2814), (50.0, 0.0, -82.7485), 1.0000),
    ((50.0, 0.0, 0.0), (50.0, -1.0, 2.0), 2.3669),
    ((50.0, 2.4900, -0.0010), (50.0, -2.4900, 0.0009), 7.1792),
    ((50.0, 2.4900, -0.0010), (50.0, -2.4900, 0.0011), 7.2195),
    ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]


def flat(*rgb: float, size: int = 64) -> torch.Tensor:
    """One picture of one colour (1, 3, S, S), levels of 255."""
    return (torch.tensor(rgb).view(1, 3, 1, 1) / 127.5 - 1).expand(1, 3, size, size)


def smooth_photo(seed: int = 0, size: int = 64) -> torch.Tensor:
    """Smooth colours around skin (1, 3, S, S), [-1, 1]."""
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 0.5
    return torch.nn.functional.interpolate(coarse, size, mode="bicubic")


def test_lab_equals_scikit_image() -> None:
    rgb = np.random.default_rng(0).random((3, 500))
    lab = linear_to_lab(linear_light(torch.from_numpy(rgb)[None]))[0].T.numpy()
    # 5e-4 of 100: scikit-image rounds the two constants of f(t) to 0.008856 and 7.787
    np.testing.assert_allclose(lab, skimage_color.rgb2lab(rgb.T), atol=5e-4, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 0.03])  # colours far apart, and near gray
def test_ciede2000_equals_scikit_image(scale: float) -> None:
    rng = np.random.default_rng(1)
    one, other = (rng.uniform((0, -100, -100), (100, 100, 100), (2000, 3)) * (1, scale, scale) for _ in range(2))
    found = ciede2000(torch.from_numpy(one.T)[None], torch.from_numpy(other.T)[None])[0].numpy()
    np.testing.assert_allclose(found, skimage_color.deltaE_ciede2000(one, other), atol=1e-9, rtol=0)


def test_ciede2000_gives_the_published_differences_in_both_directions() -> None:
    one, other = (torch.tensor([pair[side] for pair in PUBLISHED], dtype=torch.float64).T[None] for side in (0, 1))
    expected = [difference for *_, difference in PUBLISHED]
    assert ciede2000(one, other)[0].tolist() == pytest.approx(expected, abs=5e-5)  # four digits are published
    assert ciede2000(other, one)[0].tolist() == pytest.approx(expected, abs=5e-5)


def test_the_figure_of_two_flat_colours_is_their_difference() -> None:
    labs = [skimage_color.rgb2lab(np.array([[rgb]]) / 255) for rgb in ((180.0, 140.0, 120.0), (170.0, 140.0, 125.0))]
    found = ColorDifferenceMetric().update(flat(180, 140, 120), flat(170, 140, 125)).item()
    assert found == pytest.approx(skimage_color.deltaE_ciede2000(*labs).item(), abs=1e-3)


def test_equal_pictures_differ_by_nothing_and_black_and_white_by_a_hundred() -> None:
    metric, photo = ColorDifferenceMetric(), smooth_photo()
    assert metric.measure(photo, photo).item() == 0
    assert metric.measure(flat(0, 0, 0), flat(255, 255, 255)).item() == pytest.approx(100, abs=1e-2)


def test_only_the_face_counts() -> None:
    gt = smooth_photo()
    rows, columns = torch.meshgrid(*[(torch.arange(64) + 0.5) / 64] * 2, indexing="ij")
    # cells have 4 pixels a side, so one whose centre is in the ellipse reaches at most .045 beyond it
    outside = ((columns - 0.5) / 0.295) ** 2 + ((rows - 0.56) / 0.325) ** 2 > 1
    inside = ((columns - 0.5) / 0.05) ** 2 + ((rows - 0.56) / 0.05) ** 2 < 1
    assert ColorDifferenceMetric().measure(torch.where(outside, -gt, gt), gt).item() == 0
    assert ColorDifferenceMetric().measure(torch.where(inside, -gt, gt), gt).item() > 0.1


def test_the_face_is_the_stated_ellipse() -> None:
    expected = [
        [((x + 0.5) / 16 - 0.50) ** 2 / 0.25**2 + ((y + 0.5) / 16 - 0.56) ** 2 / 0.28**2 <= 1 for x in range(16)]
        for y in range(16)
    ]
    assert face_mask().tolist() == expected
    assert face_mask().sum().item() / 256 == pytest.approx(np.pi * 0.25 * 0.28, rel=0.05)


def test_cells_are_means_of_light_not_of_levels() -> None:
    stripes = flat(0, 0, 0).clone()
    stripes[..., ::2] = 1.0  # half the light: Y = 0.5, L = 116 * 0.5^(1/3) - 16
    colors = face_colors(stripes)
    torch.testing.assert_close(
        colors[:, 0], torch.full_like(colors[:, 0], 116 * 0.5 ** (1 / 3) - 16), atol=1e-4, rtol=0
    )
    assert colors[:, 1:].abs().max() < 1e-2


def test_a_change_of_light_counts_in_full_and_noise_hardly() -> None:
    metric, gt = ColorDifferenceMetric(), smooth_photo(size=256)
    noise = torch.randn(gt.shape, generator=torch.Generator().manual_seed(2)) * 16 / 255
    drift, noisy = metric.measure(gt - 0.08, gt).item(), metric.measure(gt + noise, gt).item()
    assert drift > 2
    assert noisy < 0.2 * drift


def test_the_figure_does_not_depend_on_the_size_of_the_picture() -> None:
    rng = np.random.default_rng(3)
    cells = rng.integers(60, 200, (2, 16, 16, 3)).astype(np.uint8)
    small, large = ([img2tensor(np.kron(image, np.ones((n, n, 1), np.uint8)))[None] for image in cells] for n in (2, 8))
    metric = ColorDifferenceMetric()
    assert metric.measure(*small).item() == pytest.approx(metric.measure(*large).item(), abs=1e-9)
