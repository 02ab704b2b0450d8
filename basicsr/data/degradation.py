"""Synthetic degradation: drawn first, applied second, so that a drawn Degradation can be written down and repeated.

Order and rounding are those of the released data pipeline: blur, downsample, noise, JPEG, upsample, colour, 8 bits.
Pictures here: float32 BGR [0, 1] (S, S, 3), unless a function says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from basicsr.data.augment import ColorJitter, ColorJitterRanges, to_gray
from basicsr.data.blur_kernels import FloatImage, GaussianKernel, blur_and_resize
from basicsr.utils.errors import OptionError
from basicsr.utils.img_util import Image
from basicsr.utils.seed import rng_for

KernelKind = Literal["iso", "aniso"]
Range = tuple[float, float]

REFERENCE_SIZE = 512  # px for which blur and downsampling are stated
COLOR_RANGES = ("brightness", "contrast", "saturation")
MAX_KERNEL_SIZE = 511  # px at REFERENCE_SIZE: a border can be mirrored by less than one picture


@dataclass(frozen=True)
class Degradation:
    """One drawn degradation. Applying it twice to one picture gives the same pixels."""

    gt_size: int  # S, px
    kernel: GaussianKernel  # in px of the picture
    small_size: int  # px, side between downsampling and upsampling
    noise_sigma: float | None  # of 255; None: no noise
    noise_seed: int
    jpeg_quality: int | None  # 0..100; None: no JPEG
    color_shift: tuple[float, float, float] | None = None  # of 255, added to B, G, R
    jitter: ColorJitter | None = None
    gray: bool = False

    def apply(self, image: FloatImage) -> FloatImage:
        """The degraded picture, same shape and range, on 8-bit levels."""
        return self.apply_to_bytes(image).astype(np.float32) / np.float32(255)

    def apply_to_bytes(self, image: FloatImage) -> Image:
        """float32 BGR [0, 1] (S, S, 3) -> uint8 BGR (S, S, 3), as it would stand in a file."""
        if image.shape != (self.gt_size, self.gt_size, 3):
            raise ValueError(f"Degradation was drawn for {self.gt_size} px, the picture has shape {image.shape}")
        lq = blur_and_resize(image, self.kernel, self.small_size)
        if self.noise_sigma is not None:
            noise = rng_for(self.noise_seed).standard_normal(lq.shape, dtype=np.float32)
            noise *= np.float32(self.noise_sigma / 255)
            lq = np.clip(lq + noise, 0, 1)
        levels: FloatImage = lq * np.float32(255)
        if self.jpeg_quality is not None:
            levels = jpeg_round_trip(_round(levels), self.jpeg_quality).astype(np.float32)
        levels = cv2.resize(levels, (self.gt_size, self.gt_size), interpolation=cv2.INTER_LINEAR)
        return _round(self._recolor(levels))

    def _recolor(self, levels: FloatImage) -> FloatImage:
        """Shift, gray and jitter, in that order; 0..255 in and out."""
        if self.color_shift is not None:
            levels = np.clip(levels + np.asarray(self.color_shift, np.float32), 0, 255)
        if self.gray:
            levels = to_gray(levels)
        if self.jitter is not None:
            levels = self.jitter.apply(levels / np.float32(255)) * np.float32(255)
        return levels


def _round(levels: FloatImage) -> Image:
    """0..255 -> uint8, half to even, saturated."""
    return np.asarray(cv2.convertScaleAbs(levels), np.uint8)  # nothing below 0 but rounding noise


def jpeg_round_trip(image: Image, quality: int) -> Image:
    """Through a JPEG file of that quality (0..100) and back, uint8 BGR."""
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)


@dataclass(frozen=True)
class DegradationRanges:
    """Ranges from which a Degradation is drawn, each uniformly.

    Blur and downsampling are stated for 512 px and scale with the picture (factor at least 1, odd kernel at least 3);
    noise, JPEG and colours do not.

    Args:
        blur_kernel_size: px, odd.
        kernel_list, kernel_prob: kinds of kernel and their probabilities.
        blur_sigma: px.
        downsample_range: factors.
        noise_range: of 255; None: no noise.
        jpeg_range: quality 0..100; None: no JPEG.
        gray_prob: probability of a gray picture.
        color_jitter_prob, color_jitter_shift: probability and half range (of 255) of a shift of each channel.
        color_jitter_pt_prob: probability of a change of brightness, contrast, saturation and hue.
        brightness, contrast, saturation, hue: ranges of that change.
    """

    blur_kernel_size: int = 41
    kernel_list: tuple[KernelKind, ...] = ("iso", "aniso")
    kernel_prob: tuple[float, ...] = (0.5, 0.5)
    blur_sigma: Range = (1.0, 15.0)
    downsample_range: Range = (4.0, 30.0)
    noise_range: Range | None = (0.0, 20.0)
    jpeg_range: Range | None = (30.0, 80.0)
    gray_prob: float = 0.0
    color_jitter_prob: float = 0.0
    color_jitter_shift: float = 20.0
    color_jitter_pt_prob: float = 0.0
    brightness: Range = (0.5, 1.5)
    contrast: Range = (0.5, 1.5)
    saturation: Range = (0.0, 1.5)
    hue: Range = (-0.1, 0.1)

    def __post_init__(self) -> None:
        if (
            len(self.kernel_list) != len(self.kernel_prob)
            or min(self.kernel_prob, default=-1) < 0
            or abs(sum(self.kernel_prob) - 1) > 1e-6
        ):
            raise OptionError(
                f"degradation.kernel_prob: {list(self.kernel_prob)} for {list(self.kernel_list)}; expected one "
                "probability for each kernel, with sum 1."
            )
        if self.blur_kernel_size % 2 == 0 or not 3 <= self.blur_kernel_size <= MAX_KERNEL_SIZE:
            raise OptionError(
                f"degradation.blur_kernel_size: found {self.blur_kernel_size}, expected an odd number of px, "
                f"3 to {MAX_KERNEL_SIZE}."
            )
        for name in ("blur_sigma", "downsample_range", "noise_range", "jpeg_range", *COLOR_RANGES):
            limits = getattr(self, name)
            if limits is not None and not 0 <= limits[0] <= limits[1]:
                raise OptionError(
                    f"degradation.{name}: found {list(limits)}, expected [low, high] with 0 <= low <= high."
                )
        if self.blur_sigma[0] == 0:
            raise OptionError("degradation.blur_sigma: starts at 0, expected above 0 (0.1 is next to no blur).")
        if not -0.5 <= self.hue[0] <= self.hue[1] <= 0.5:
            raise OptionError(f"degradation.hue: found {list(self.hue)}, expected [low, high] within -0.5 and 0.5.")
        if self.jpeg_range is not None and self.jpeg_range[1] > 100:
            raise OptionError(f"degradation.jpeg_range: found {list(self.jpeg_range)}, a quality is at most 100.")

    def sample(self, rng: np.random.Generator, gt_size: int, same_colors_as: Degradation | None = None) -> Degradation:
        """Draw a degradation for pictures of gt_size px.

        The number and order of draws depend on nothing, so that one range can be changed with all else held.

        Args:
            same_colors_as: whether to shift, jitter and gray is taken over from there (stage III decides once for both
                degraded copies); by how much is drawn here.
        """
        scale = gt_size / REFERENCE_SIZE
        kind = self.kernel_list[int(rng.choice(len(self.kernel_list), p=self.kernel_prob))]
        sigma_x, sigma_y = (float(value) * scale for value in rng.uniform(*self.blur_sigma, size=2))
        angle = float(rng.uniform(-np.pi, np.pi))
        factor = max(1.0, float(rng.uniform(*self.downsample_range)) * scale)
        noise_sigma = float(rng.uniform(*(self.noise_range or (0.0, 0.0))))
        noise_seed = int(rng.integers(2**31))
        quality = int(rng.uniform(*(self.jpeg_range or (0.0, 0.0))))
        shifts, grays, jitters = rng.uniform(size=3) < (
            self.color_jitter_prob,
            self.gray_prob,
            self.color_jitter_pt_prob,
        )
        shift = rng.uniform(-self.color_jitter_shift, self.color_jitter_shift, size=3)
        jitter = ColorJitterRanges(self.brightness, self.contrast, self.saturation, self.hue).sample(rng)
        if same_colors_as is not None:
            shifts, grays = same_colors_as.color_shift is not None, same_colors_as.gray
            jitters = same_colors_as.jitter is not None
        size = scaled_kernel_size(self.blur_kernel_size, scale)
        return Degradation(
            gt_size=gt_size,
            kernel=GaussianKernel(size, sigma_x, sigma_x if kind == "iso" else sigma_y, angle),
            small_size=max(1, int(gt_size // factor)),
            noise_sigma=noise_sigma if self.noise_range is not None else None,
            noise_seed=noise_seed,
            jpeg_quality=quality if self.jpeg_range is not None else None,
            color_shift=(float(shift[0]), float(shift[1]), float(shift[2])) if shifts else None,
            jitter=jitter if jitters else None,
            gray=bool(grays),
        )


def scaled_kernel_size(size: int, scale: float) -> int:
    """The odd size next to size * scale, at least 3."""
    return max(3, 2 * round((size * scale - 1) / 2) + 1)


def degraded_copies(
    gt: Image, ranges: DegradationRanges, ranges_large: DegradationRanges | None, rng: np.random.Generator
) -> dict[str, Image]:
    """`lq`, and `lq_large` where there are ranges for it: independent degradations of one picture, uint8 BGR."""
    clean = gt.astype(np.float32) / np.float32(255)
    drawn = ranges.sample(rng, gt.shape[0])
    copies = {"lq": drawn.apply_to_bytes(clean)}
    if ranges_large is not None:
        copies["lq_large"] = ranges_large.sample(rng, gt.shape[0], same_colors_as=drawn).apply_to_bytes(clean)
    return copies
