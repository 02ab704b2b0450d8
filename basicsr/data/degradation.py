"""Synthetic degradation: ranges, and drawing from them. What is drawn is a Degradation, which does the arithmetic.

What a sample draws from its generator depends on no option; whatever came later has streams of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from basicsr.data.augment import ColorJitterRanges
from basicsr.data.blur_kernels import BlurKernel, Family, GaussianKernel, MotionKernel
from basicsr.data.compression import sample_video_compression
from basicsr.data.drawn_degradation import Degradation
from basicsr.data.strokes import sample_strokes
from basicsr.utils.errors import OptionError
from basicsr.utils.img_util import Image
from basicsr.utils.seed import rng_for

KernelKind = Literal[
    "iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso", "skew", "motion"
]
Range = tuple[float, float]

REFERENCE_SIZE = 512  # px for which blur and downsampling are stated
ISOTROPIC = ("iso", "generalized_iso", "plateau_iso")
RANGES_FROM_0 = (
    "downsample_range", "noise_range", "jpeg_range", "brightness", "contrast", "saturation", "motion_length",
    "stroke_width", "second_downsample_range", "second_noise_range", "second_jpeg_range", "video_quality",
)  # fmt: skip
RANGES_ABOVE_0 = ("blur_sigma", "second_blur_sigma", "betag_range", "betap_range")
PROBABILITIES = ("gray_prob", "color_jitter_prob", "color_jitter_pt_prob", "second_order_prob", "video_prob")
QUALITIES = ("jpeg_range", "second_jpeg_range", "video_quality")
# Streams of random numbers beside the one that every sample uses, so that an extra moves no draw of what was there
# before; 0 is the noise's own.
SHAPE_STREAM, STROKE_STREAM, SECOND_STREAM, VIDEO_STREAM = 1, 2, 3, 4
MAX_KERNEL_SIZE = 511  # px at REFERENCE_SIZE: a border can be mirrored by less than one picture


@dataclass(frozen=True)
class DegradationRanges:
    """Ranges from which a Degradation is drawn, each uniformly.

    Blur and downsampling are stated for 512 px and scale with the picture (factor at least 1, odd kernel at least 3);
    noise, JPEG and colours do not, nor do the extras' own.

    Args:
        blur_kernel_size: px, odd.
        kernel_list, kernel_prob: kinds of kernel and their probabilities.
        blur_sigma: px.
        betag_range, betap_range: exponents of the generalized and of the plateau kernels; for anisotropic ones half of
            the draws are below 1.
        skew_range: slant of skew kernels along each of their axes.
        motion_length: px, of motion kernels; at most the kernel's size has an effect.
        downsample_range: factors.
        noise_range: of 255; None: no noise.
        jpeg_range: quality 0..100; None: no JPEG.
        gray_prob: probability of a gray picture.
        color_jitter_prob, color_jitter_shift: probability and half range (of 255) of a shift of each channel.
        color_jitter_pt_prob: probability of a change of brightness, contrast, saturation and hue.
        brightness, contrast, saturation, hue: ranges of that change.
        gen_inpaint_mask: cover the picture with white strokes; blur, downsampling, noise and JPEG are then left out.
        stroke_width: px.
        second_order_prob: probability of a second round of blur, downsampling, noise and JPEG on the small picture.
        second_blur_sigma, second_downsample_range, second_noise_range, second_jpeg_range: its ranges, in the units of
            the first round.
        video_prob: probability of the traces of a video codec on the small picture.
        video_quality: JPEG quality 0..100 of each generation.
        video_generations: fewest and most generations.
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
    betag_range: Range = (0.5, 8.0)
    betap_range: Range = (0.5, 8.0)
    skew_range: Range = (-4.0, 4.0)
    motion_length: Range = (8.0, 40.0)
    gen_inpaint_mask: bool = False
    stroke_width: Range = (30.0, 70.0)
    second_order_prob: float = 0.0
    second_blur_sigma: Range = (1.0, 8.0)
    second_downsample_range: Range = (1.0, 3.0)
    second_noise_range: Range | None = (0.0, 10.0)
    second_jpeg_range: Range | None = (40.0, 95.0)
    video_prob: float = 0.0
    video_quality: Range = (15.0, 50.0)
    video_generations: tuple[int, int] = (2, 6)

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
        for name in PROBABILITIES:
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"degradation.{name}: found {getattr(self, name)}, expected 0 to 1.")
        for name in (*RANGES_FROM_0, *RANGES_ABOVE_0):
            limits = getattr(self, name)
            if limits is not None and not 0 <= limits[0] <= limits[1]:
                raise OptionError(
                    f"degradation.{name}: found {list(limits)}, expected [low, high] with 0 <= low <= high."
                )
            if name in RANGES_ABOVE_0 and limits[0] == 0:
                raise OptionError(f"degradation.{name}: starts at 0, expected above 0 (0.1 is next to none).")
            if name in QUALITIES and limits is not None and limits[1] > 100:
                raise OptionError(f"degradation.{name}: found {list(limits)}, a quality is at most 100.")
        if not -0.5 <= self.hue[0] <= self.hue[1] <= 0.5:
            raise OptionError(f"degradation.hue: found {list(self.hue)}, expected [low, high] within -0.5 and 0.5.")
        if self.skew_range[0] > self.skew_range[1]:
            raise OptionError(f"degradation.skew_range: found {list(self.skew_range)}, expected [low, high].")
        if not 1 <= self.video_generations[0] <= self.video_generations[1]:
            raise OptionError(
                f"degradation.video_generations: found {list(self.video_generations)}, expected [fewest, most] with "
                "1 <= fewest <= most."
            )

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
        drawn = Degradation(
            gt_size=gt_size,
            kernel=self._kernel(kind, gt_size, (sigma_x, sigma_y), angle, noise_seed),
            small_size=max(1, int(gt_size // factor)),
            noise_sigma=noise_sigma if self.noise_range is not None else None,
            noise_seed=noise_seed,
            jpeg_quality=quality if self.jpeg_range is not None else None,
            color_shift=(float(shift[0]), float(shift[1]), float(shift[2])) if shifts else None,
            jitter=jitter if jitters else None,
            gray=bool(grays),
        )
        return self._with_extras(drawn)

    def _kernel(
        self, kind: KernelKind, gt_size: int, sigmas: tuple[float, float], angle: float, noise_seed: int
    ) -> BlurKernel:
        """The kernel of that kind; what only it has is drawn from a stream of its own."""
        scale = gt_size / REFERENCE_SIZE
        size = scaled_kernel_size(self.blur_kernel_size, scale)
        sigma_x, sigma_y = (sigmas[0], sigmas[0]) if kind in ISOTROPIC else sigmas
        if kind in ("iso", "aniso"):
            return GaussianKernel(size, sigma_x, sigma_y, angle)
        rng = rng_for(noise_seed, SHAPE_STREAM)
        if kind == "motion":
            return MotionKernel(size, float(rng.uniform(*self.motion_length)) * scale, angle)
        if kind == "skew":
            slant = rng.uniform(*self.skew_range, size=2)
            return GaussianKernel(size, sigma_x, sigma_y, angle, "skew", skew=(float(slant[0]), float(slant[1])))
        family: Family = "plateau" if kind.startswith("plateau") else "generalized"
        limits = self.betap_range if family == "plateau" else self.betag_range
        beta = float(rng.uniform(*limits)) if kind in ISOTROPIC else _split_at_1(rng, limits)
        return GaussianKernel(size, sigma_x, sigma_y, angle, family, beta)

    def _with_extras(self, drawn: Degradation) -> Degradation:
        """Strokes instead of a loss of quality, or a second round and video compression on top of it."""
        if self.gen_inpaint_mask:
            scale = drawn.gt_size / REFERENCE_SIZE
            width = (self.stroke_width[0] * scale, self.stroke_width[1] * scale)
            strokes = sample_strokes(rng_for(drawn.noise_seed, STROKE_STREAM), drawn.gt_size, width)
            return dataclasses.replace(
                drawn, strokes=strokes, kernel=None, small_size=drawn.gt_size, noise_sigma=None, jpeg_quality=None
            )
        if self.second_order_prob > 0:
            rng = rng_for(drawn.noise_seed, SECOND_STREAM)
            if rng.uniform() < self.second_order_prob:
                drawn = dataclasses.replace(drawn, second=self._second_round(drawn).sample(rng, drawn.small_size))
        if self.video_prob > 0:
            rng = rng_for(drawn.noise_seed, VIDEO_STREAM)
            if rng.uniform() < self.video_prob:
                video = sample_video_compression(rng, self.video_quality, self.video_generations)
                drawn = dataclasses.replace(drawn, video=video)
        return drawn

    def _second_round(self, drawn: Degradation) -> DegradationRanges:
        """Ranges of the second round, for the small picture. A factor of 2 halves it, whatever its size."""
        low, high = (limit * drawn.gt_size / drawn.small_size for limit in self.second_downsample_range)
        return DegradationRanges(
            blur_kernel_size=self.blur_kernel_size,
            kernel_list=self.kernel_list,
            kernel_prob=self.kernel_prob,
            blur_sigma=self.second_blur_sigma,
            downsample_range=(low, high),
            noise_range=self.second_noise_range,
            jpeg_range=self.second_jpeg_range,
            betag_range=self.betag_range,
            betap_range=self.betap_range,
            skew_range=self.skew_range,
            motion_length=self.motion_length,
        )


def _split_at_1(rng: np.random.Generator, limits: Range) -> float:
    """Uniform below 1 or uniform above it, each half of the time; uniform in all where 1 lies outside."""
    low, high = limits
    below = rng.uniform() < 0.5
    if low < 1 < high:
        low, high = (low, 1.0) if below else (1.0, high)
    return float(rng.uniform(low, high))


def scaled_kernel_size(size: int, scale: float) -> int:
    """The odd size next to size * scale, at least 3."""
    return max(3, 2 * round((size * scale - 1) / 2) + 1)


def sample_copies(
    ranges: DegradationRanges, ranges_large: DegradationRanges | None, rng: np.random.Generator, gt_size: int
) -> dict[str, Degradation]:
    """Degradations of `lq`, and of `lq_large` where it has ranges; independent but for whether colours change."""
    drawn = {"lq": ranges.sample(rng, gt_size)}
    if ranges_large is not None:
        drawn["lq_large"] = ranges_large.sample(rng, gt_size, same_colors_as=drawn["lq"])
    return drawn


def degraded_copies(
    gt: Image, ranges: DegradationRanges, ranges_large: DegradationRanges | None, rng: np.random.Generator
) -> dict[str, Image]:
    """Degraded copies of one picture, uint8 BGR. See `sample_copies`."""
    return apply_copies(gt, sample_copies(ranges, ranges_large, rng, gt.shape[0]))


def apply_copies(gt: Image, drawn: Mapping[str, Degradation]) -> dict[str, Image]:
    """Each degradation of one picture, uint8 BGR."""
    clean = gt.astype(np.float32) / np.float32(255)
    return {name: degradation.apply_to_bytes(clean) for name, degradation in drawn.items()}
