"""PSNR and SSIM, with the definitions of BasicSR. Paper: Wang et al. 2004 (SSIM).

Computed in float64 on 8-bit levels 0..255. Shapes: B batch; C channels (3, or 1 for luma); H, W pixels.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from torch import Tensor

from basicsr.metrics.base_metric import Metric
from basicsr.utils.img_util import to_uint8
from basicsr.utils.registry import METRIC_REGISTRY


def gaussian_weights(size: int, sigma: float) -> list[float]:
    """Samples of a Gaussian centred in a window of odd `size`, with sum 1."""
    weights = [math.exp(-((i - size // 2) ** 2) / (2 * sigma**2)) for i in range(size)]
    return [weight / math.fsum(weights) for weight in weights]


SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_WEIGHTS = gaussian_weights(SSIM_WINDOW, SSIM_SIGMA)
SSIM_C1 = (0.01 * 255) ** 2
SSIM_C2 = (0.03 * 255) ** 2
LUMA_RGB = (65.481, 128.553, 24.966)  # BT.601, of RGB in [0, 1]; luma spans 16..235
LUMA_OFFSET = 16.0


@METRIC_REGISTRY.register()
class PSNRMetric(Metric):
    """10 log10(255^2 / mean squared error) in dB over all channels; infinite when the images are equal.

    Args:
        crop_border: pixels left out on each side.
        test_y_channel: judge luma (BT.601) instead of RGB.
    """

    better = "higher"
    value_range = "dB, 0 to inf"

    def __init__(self, crop_border: int = 0, test_y_channel: bool = False) -> None:
        super().__init__()
        self.crop_border = crop_border
        self.test_y_channel = test_y_channel
        self.label = "PSNR-Y" if test_y_channel else "PSNR"
        self.protocol = pixel_protocol("dB, 8 bit", crop_border, test_y_channel)

    def score(self, restored: Tensor, gt: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B,) dB."""
        return self.compare(restored, self.reference(gt))

    def reference(self, gt: Tensor) -> Tensor:
        """Levels (B, C, H, W)."""
        return levels(gt, self.crop_border, self.test_y_channel)

    def compare(self, restored: Tensor, reference: Tensor) -> Tensor:
        """(B, 3, H, W), and levels -> (B,) dB."""
        difference = levels(restored, self.crop_border, self.test_y_channel) - reference
        return 10 * torch.log10(255.0**2 / difference.square().mean(dim=(1, 2, 3)))


@METRIC_REGISTRY.register()
class SSIMMetric(Metric):
    """Structural similarity: 11x11 Gaussian window (sigma 1.5), valid region, population moments, mean over channels.

    Args:
        crop_border, test_y_channel: as in PSNRMetric.
    """

    better = "higher"
    value_range = "[-1, 1]"

    def __init__(self, crop_border: int = 0, test_y_channel: bool = False) -> None:
        super().__init__()
        self.crop_border = crop_border
        self.test_y_channel = test_y_channel
        self.label = "SSIM-Y" if test_y_channel else "SSIM"
        self.protocol = pixel_protocol("8 bit, Gaussian 11x11 sigma 1.5, valid region", crop_border, test_y_channel)

    def score(self, restored: Tensor, gt: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B,) in [-1, 1]."""
        return self.compare(restored, self.reference(gt))

    def reference(self, gt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Levels (B, C, H, W), their windows' means and variances (B, C, H-10, W-10)."""
        y = levels(gt, self.crop_border, self.test_y_channel)
        if min(y.shape[-2:]) < SSIM_WINDOW:
            raise ValueError(
                f"SSIM needs at least {SSIM_WINDOW} pixels a side after the crop, got {tuple(y.shape[-2:])}"
            )
        mu_y = window_mean(y)
        return y, mu_y, window_mean(y * y) - mu_y * mu_y

    def compare(self, restored: Tensor, reference: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """(B, 3, H, W), and what `reference` gives -> (B,) in [-1, 1]."""
        x = levels(restored, self.crop_border, self.test_y_channel)  # (B, C, H, W)
        if x.device.type != "cpu":
            return structural_similarity(x, *reference)
        # one picture after the other: what is made of it stays in the cache
        return torch.stack([structural_similarity(*parts) for parts in zip(x, *reference, strict=True)])


def structural_similarity(x: Tensor, y: Tensor, mu_y: Tensor, var_y: Tensor) -> Tensor:
    """Levels (..., C, H, W) twice, the second with means and variances of its windows (..., C, H-10, W-10) -> (...)."""
    mu_x = window_mean(x)
    var_x = window_mean(x * x) - mu_x * mu_x
    mu_xy = mu_x * mu_y
    cov = window_mean(x * y) - mu_xy
    above = (mu_xy.mul_(2).add_(SSIM_C1)).mul_(cov.mul_(2).add_(SSIM_C2))
    below = (mu_x * mu_x).add_(mu_y * mu_y).add_(SSIM_C1).mul_(var_x.add_(var_y).add_(SSIM_C2))
    return above.div_(below).mean(dim=(-3, -2, -1))


def levels(images: Tensor, crop_border: int, test_y_channel: bool) -> Tensor:
    """(B, 3, H, W) RGB [-1, 1] -> float64 (B, C, H, W) levels 0..255, or luma 16..235, without the border."""
    pixels = to_uint8(images).double()
    if crop_border:
        pixels = pixels[..., crop_border:-crop_border, crop_border:-crop_border]
    if pixels.numel() == 0:
        raise ValueError(f"crop_border {crop_border} leaves nothing of a {tuple(images.shape[-2:])} image")
    if test_y_channel:
        weights = pixels.new_tensor(LUMA_RGB).view(1, 3, 1, 1) / 255
        pixels = (pixels * weights).sum(dim=1, keepdim=True) + LUMA_OFFSET  # (B, 3, H, W) -> (B, 1, H, W)
    return pixels


def window_mean(images: Tensor) -> Tensor:
    """Gaussian-weighted mean of each 11x11 window: float64 (..., H, W) -> (..., H-10, W-10).

    On a CPU OpenCV's separable filter, 30 times as fast as a float64 convolution of torch; else sums of shifted copies,
    rows then columns.
    """
    if images.device.type == "cpu":
        kernel, half = np.array(SSIM_WEIGHTS), SSIM_WINDOW // 2
        planes = images.flatten(0, -3).numpy()  # (..., H, W) -> (N, H, W)
        means = [cv2.sepFilter2D(plane, cv2.CV_64F, kernel, kernel)[half:-half, half:-half] for plane in planes]
        return torch.from_numpy(np.stack(means)).unflatten(0, images.shape[:-2])
    for dim in (-2, -1):
        size = images.shape[dim] - SSIM_WINDOW + 1
        total = SSIM_WEIGHTS[0] * images.narrow(dim, 0, size)
        for offset in range(1, SSIM_WINDOW):
            total.add_(images.narrow(dim, offset, size), alpha=SSIM_WEIGHTS[offset])
        images = total
    return images


def pixel_protocol(definition: str, crop_border: int, test_y_channel: bool) -> str:
    """The conditions of a pixel metric as one line."""
    return f"whole image, {'luma BT.601' if test_y_channel else 'RGB'}, {definition}, crop_border {crop_border}"
