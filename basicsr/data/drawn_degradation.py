"""One drawn degradation and its arithmetic: it can be written down and repeated.

Order and rounding are those of the released data pipeline: blur, downsample, noise, JPEG, upsample, strokes, colour,
8 bits. Extras, off by default: a second round of blur to JPEG on the small picture, and the traces of a video codec.
Pictures here: float32 BGR [0, 1] (S, S, 3), unless a function says otherwise. n is the side after downsampling.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from basicsr.data.augment import ColorJitter, to_gray
from basicsr.data.blur_kernels import BlurKernel, FloatImage
from basicsr.data.compression import VideoCompression, jpeg_round_trip
from basicsr.data.fused_blur import blur_and_resize
from basicsr.data.strokes import Stroke, draw_strokes
from basicsr.utils.img_util import Image
from basicsr.utils.seed import rng_for


@dataclass(frozen=True)
class Degradation:
    """One drawn degradation. Applying it twice to one picture gives the same pixels."""

    gt_size: int  # S, px
    kernel: BlurKernel | None  # in px of the picture; None: no blur
    small_size: int  # px, side between downsampling and upsampling
    noise_sigma: float | None  # of 255; None: no noise
    noise_seed: int
    jpeg_quality: int | None  # 0..100; None: no JPEG
    color_shift: tuple[float, float, float] | None = None  # of 255, added to B, G, R
    jitter: ColorJitter | None = None
    gray: bool = False
    second: Degradation | None = None  # of the small picture, after the JPEG
    video: VideoCompression | None = None  # of the small picture, at its end
    strokes: tuple[Stroke, ...] = ()

    def apply(self, image: FloatImage) -> FloatImage:
        """The degraded picture, same shape and range, on 8-bit levels."""
        return self.apply_to_bytes(image).astype(np.float32) / np.float32(255)

    def apply_to_bytes(self, image: FloatImage) -> Image:
        """float32 BGR [0, 1] (S, S, 3) -> uint8 BGR (S, S, 3), as it would stand in a file."""
        if image.shape != (self.gt_size, self.gt_size, 3):
            raise ValueError(f"Degradation was drawn for {self.gt_size} px, the picture has shape {image.shape}")
        levels: FloatImage = self._shrunk(image) * np.float32(255)
        if self.jpeg_quality is not None:
            levels = jpeg_round_trip(_round(levels), self.jpeg_quality).astype(np.float32)
        if self.second is not None:
            levels = self.second.apply_to_bytes(levels / np.float32(255)).astype(np.float32)
        if self.video is not None:
            levels = self.video.apply(_round(levels)).astype(np.float32)
        if self.small_size != self.gt_size:
            levels = cv2.resize(levels, (self.gt_size, self.gt_size), interpolation=cv2.INTER_LINEAR)
        if self.strokes:
            levels = draw_strokes(_round(levels), self.strokes).astype(np.float32)
        return _round(self._recolor(levels))

    def _shrunk(self, image: FloatImage) -> FloatImage:
        """Blurred, resized and with its noise; [0, 1] in and out, (S, S, 3) -> (n, n, 3)."""
        if self.kernel is not None:
            image = blur_and_resize(image, self.kernel, self.small_size)
        elif self.small_size != self.gt_size:
            image = cv2.resize(image, (self.small_size, self.small_size), interpolation=cv2.INTER_LINEAR)
        if self.noise_sigma is not None:
            noise = rng_for(self.noise_seed).standard_normal(image.shape, dtype=np.float32)
            noise *= np.float32(self.noise_sigma / 255)
            image = np.clip(image + noise, 0, 1)
        return image

    def _recolor(self, levels: FloatImage) -> FloatImage:
        """Shift, gray and jitter, in that order; 0..255 in and out."""
        if self.color_shift is not None:
            levels = np.clip(levels + np.asarray(self.color_shift, np.float32), 0, 255)
        if self.gray:
            levels = to_gray(levels)
        if self.jitter is not None:
            levels = self.jitter.apply(levels / np.float32(255)) * np.float32(255)
        return levels

    def parameters(self) -> dict[str, str]:
        """What was drawn, for a table; what is off is not in it."""
        shown: dict[str, str] = {}
        if self.kernel is not None:
            shown |= self.kernel.parameters()
        if self.small_size != self.gt_size:
            shown["small_size"] = str(self.small_size)
        if self.noise_sigma is not None:
            shown |= {"noise_sigma": f"{self.noise_sigma:.2f}", "noise_seed": str(self.noise_seed)}
        if self.jpeg_quality is not None:
            shown["jpeg_quality"] = str(self.jpeg_quality)
        if self.second is not None:
            shown |= {f"second_{name}": value for name, value in self.second.parameters().items()}
        if self.video is not None:
            shown |= {"video_quality": str(self.video.quality), "video_generations": str(len(self.video.offsets))}
        if self.strokes:
            shown |= {"strokes": str(len(self.strokes)), "stroke_widths": " ".join(str(s.width) for s in self.strokes)}
        if self.color_shift is not None:
            shown["color_shift"] = " ".join(f"{value:.1f}" for value in self.color_shift)
        if self.gray:
            shown["gray"] = "1"
        if self.jitter is not None:
            for name in ("brightness", "contrast", "saturation", "hue"):
                shown[name] = f"{getattr(self.jitter, name):.3f}"
        return shown


def _round(levels: FloatImage) -> Image:
    """0..255 -> uint8, half to even, saturated."""
    return np.asarray(cv2.convertScaleAbs(levels), np.uint8)  # nothing below 0 but rounding noise
