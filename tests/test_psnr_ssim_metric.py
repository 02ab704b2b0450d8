"""PSNR and SSIM against scikit-image and a NumPy luma."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from basicsr.metrics.psnr_ssim_metric import PSNRMetric, SSIMMetric
from basicsr.utils.img_util import img2tensor

skimage_metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is the oracle (pip install -e .[dev])")


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    """uint8 BGR (40, 33, 3): a smooth picture and a noisy copy."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 40)[:, None, None] * np.linspace(0.3, 1, 33)[None, :, None] * np.array([1, 0.8, 0.6])
    noisy = np.clip(ramp + rng.normal(0, 12, ramp.shape), 0, 255)
    return noisy.astype(np.uint8), ramp.astype(np.uint8)


def luma(image: np.ndarray) -> np.ndarray:
    blue, green, red = (image[..., c] / 255 for c in range(3))
    return 24.966 * blue + 128.553 * green + 65.481 * red + 16


def skimage_ssim(x: np.ndarray, y: np.ndarray, channel_axis: int | None) -> float:
    return skimage_metrics.structural_similarity(
        x.astype(np.float64), y.astype(np.float64), data_range=255, channel_axis=channel_axis,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip


@pytest.mark.parametrize("crop_border", [0, 4])
def test_psnr_equals_scikit_image(pair, crop_border: int) -> None:
    inner = np.s_[crop_border : 40 - crop_border, crop_border : 33 - crop_border]
    expected = skimage_metrics.peak_signal_noise_ratio(pair[1][inner], pair[0][inner], data_range=255)
    value = PSNRMetric(crop_border).update(img2tensor(pair[0])[None], img2tensor(pair[1])[None])
    assert value.item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("crop_border", [0, 4])
def test_ssim_equals_scikit_image_on_the_valid_region(pair, crop_border: int) -> None:
    inner = np.s_[crop_border : 40 - crop_border, crop_border : 33 - crop_border]
    # skimage itself averages over the region where its window fits
    expected = skimage_ssim(pair[0][inner], pair[1][inner], channel_axis=2)
    value = SSIMMetric(crop_border).update(img2tensor(pair[0])[None], img2tensor(pair[1])[None])
    assert value.item() == pytest.approx(expected, abs=1e-9)


def test_luma_variants_judge_bt601_luma_kept_in_float(pair) -> None:
    restored, gt = (img2tensor(image)[None] for image in pair)
    mse = np.mean((luma(pair[0]) - luma(pair[1])) ** 2)
    assert PSNRMetric(test_y_channel=True).measure(restored, gt).item() == pytest.approx(
        20 * math.log10(255 / math.sqrt(mse)), abs=1e-9
    )
    assert SSIMMetric(test_y_channel=True).measure(restored, gt).item() == pytest.approx(
        skimage_ssim(luma(pair[0]), luma(pair[1]), channel_axis=None), abs=1e-9
    )
    assert (PSNRMetric(test_y_channel=True).label, SSIMMetric(test_y_channel=True).label) == ("PSNR-Y", "SSIM-Y")


def test_values_of_a_batch_are_those_of_its_images(pair) -> None:
    restored = torch.stack([img2tensor(pair[0]), img2tensor(pair[1])])
    gt = img2tensor(pair[1]).expand(2, -1, -1, -1)
    for metric in (PSNRMetric(), SSIMMetric()):
        alone = [metric.measure(restored[i : i + 1], gt[i : i + 1]).item() for i in range(2)]
        assert metric.measure(restored, gt).tolist() == alone


def test_equal_images_have_infinite_psnr_and_ssim_one(pair) -> None:
    images = img2tensor(pair[0])[None]
    assert PSNRMetric().measure(images, images).item() == math.inf
    assert SSIMMetric().measure(images, images).item() == pytest.approx(1.0, abs=1e-12)


def test_a_picture_smaller_than_the_window_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="at least 11 pixels"):
        SSIMMetric(crop_border=3).measure(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))
