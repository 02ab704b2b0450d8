"""NIQE, how far the statistics of a picture are from those of good photographs; no reference picture is needed.

Paper: Mittal, Soundararajan and Bovik 2013, "Making a completely blind image quality analyzer". The Gaussian of good
photographs is not shipped: it is given as a file. The fit of the asymmetric generalised Gaussian is that of Lasmar et
al. 2009, as the paper says.

Shapes: H, W pixels; P patches; M samples of one patch; D = 36 features (18 on each of two scales).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.special import gamma

from basicsr.utils.errors import UserError
from basicsr.utils.img_util import Image
from basicsr.utils.weights import sha256_of

Floats = NDArray[np.float64]

PATCH = 96  # px, on the first scale
NUM_SCALES = 2
NUM_FEATURES = 36
WINDOW, SIGMA = 7, 7 / 6  # of the local mean and deviation
LUMA_BGR = (0.114, 0.587, 0.2989)  # MATLAB's rgb2gray, which the paper's code uses
SHAPES = np.arange(0.2, 10.001, 0.001)  # candidates for the shape of the distribution
RATIOS = gamma(2 / SHAPES) ** 2 / (gamma(1 / SHAPES) * gamma(3 / SHAPES))  # rises with the shape
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))  # down and right, of products
FILE_KEYS = (("mu", "cov"), ("mu_prisparam", "cov_prisparam"), ("mu_pris_param", "cov_pris_param"))
MIN_SIDE = 2 * PATCH
PROTOCOL = (
    f"Mittal et al. 2013, whole image, gray 0..255 (rgb2gray), patches of {PATCH} px on two scales (bicubic with "
    "antialias), 8 bit"
)


class PristineModel(NamedTuple):
    """Gaussian of the features of good photographs."""

    mean: Floats  # (D,)
    cov: Floats  # (D, D)
    sha256: str


def read_pristine(path: Path) -> PristineModel:
    """The parameters in an .npz or .mat.

    Raises:
        UserError: missing, unreadable, or of other shapes.
    """
    try:
        if path.suffix == ".mat":
            entries = {key: np.asarray(value) for key, value in loadmat(str(path)).items() if not key.startswith("_")}
        else:
            with np.load(path, allow_pickle=False) as file:
                entries = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise UserError(f"{path}: cannot be read as NIQE parameters ({error})") from error
    for mean_key, cov_key in FILE_KEYS:
        if mean_key in entries and cov_key in entries:
            mean, cov = np.asarray(entries[mean_key], np.float64).ravel(), np.asarray(entries[cov_key], np.float64)
            if mean.shape == (NUM_FEATURES,) and cov.shape == (NUM_FEATURES, NUM_FEATURES):
                return PristineModel(mean, cov, sha256_of(path))
    raise UserError(f"{path}: holds {', '.join(entries)}; expected mu (36) and cov (36, 36) of good photographs")


def niqe(image: Image, model: PristineModel) -> float:
    """Distance of a uint8 BGR picture (H, W, 3) from good photographs, 0 to inf; lower is better.

    sqrt((m - m') ((S + S') / 2)^+ (m - m')^T) with the mean and covariance of the patches' features.

    Raises:
        UserError: smaller than MIN_SIDE.
    """
    if min(image.shape[:2]) < MIN_SIDE:
        raise UserError(f"NIQE needs {MIN_SIDE} pixels a side, the picture is {image.shape[1]}x{image.shape[0]}")
    features = patch_features(image)  # (P, D)
    features = features[np.isfinite(features).all(1)]  # a patch of one colour has no statistics
    if len(features) < 2:
        return float("nan")
    difference = features.mean(0) - model.mean
    spread = np.linalg.pinv((np.cov(features, rowvar=False) + model.cov) / 2)
    return float(np.sqrt(max(0.0, difference @ spread @ difference)))


def patch_features(image: Image) -> Floats:
    """(P, D) of a uint8 BGR picture; what does not fill a patch on the right and below is left out."""
    gray = np.round(image.astype(np.float64) @ np.array(LUMA_BGR))
    rows, columns = gray.shape[0] // PATCH, gray.shape[1] // PATCH
    gray = gray[: rows * PATCH, : columns * PATCH]
    scales = []
    for scale in range(NUM_SCALES):
        side = PATCH >> scale
        normalized = contrast_normalized(gray)
        scales.append(scale_features(normalized, rows, columns, side))
        gray = halved(gray)
    return np.concatenate(scales, axis=1)


def contrast_normalized(gray: Floats) -> Floats:
    """(I - mean) / (deviation + 1) in a Gaussian window, (H, W); the border is repeated."""

    def blurred(values: Floats) -> Floats:
        return np.asarray(cv2.GaussianBlur(values, (WINDOW, WINDOW), SIGMA, borderType=cv2.BORDER_REPLICATE))

    mean = blurred(gray)
    deviation = np.sqrt(np.abs(blurred(gray * gray) - mean * mean))
    return (gray - mean) / (deviation + 1)


def halved(gray: Floats) -> Floats:
    """(H, W) -> (H/2, W/2), bicubic (a = -0.5) with the kernel widened twice, so that nothing aliases."""
    offsets = np.abs(np.arange(8) - 3.5) / 2  # distance of eight samples from the centre of the new pixel
    near = 1.5 * offsets**3 - 2.5 * offsets**2 + 1
    far = -0.5 * offsets**3 + 2.5 * offsets**2 - 4 * offsets + 2
    kernel = np.where(offsets <= 1, near, far)
    kernel = np.append(kernel / kernel.sum(), 0.0)[::-1]  # nine taps, so that OpenCV's anchor is the fifth
    smooth = cv2.sepFilter2D(gray, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT)
    return np.asarray(smooth[::2, ::2], np.float64)


def scale_features(normalized: Floats, rows: int, columns: int, side: int) -> Floats:
    """(P, 18): shape and width of the samples, then shape, mean and two widths of four products of neighbours."""

    def patches(values: Floats) -> Floats:
        split = values.reshape(rows, side, columns, side).transpose(0, 2, 1, 3)
        return split.reshape(rows * columns, side * side)  # (P, M)

    shape, left, right, _ = asymmetric_fit(patches(normalized))
    features = [shape, (left + right) / 2]
    for down, across in NEIGHBOURS:
        shifted = np.roll(normalized, (down, across), (0, 1))
        shape, left, right, mean = asymmetric_fit(patches(normalized * shifted))
        features += [shape, mean, left, right]
    return np.stack(features, axis=1)


def asymmetric_fit(samples: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Shape, left and right scale, and mean (P,) of asymmetric generalised Gaussians, by matching moments of (P, M)."""
    below, above = samples < 0, samples > 0
    with np.errstate(divide="ignore", invalid="ignore"):  # a patch without values on a side: no number, left out later
        left = np.sqrt((samples**2 * below).sum(1) / below.sum(1))
        right = np.sqrt((samples**2 * above).sum(1) / above.sum(1))
        ratio = left / right
        observed = np.abs(samples).mean(1) ** 2 / (samples**2).mean(1)
        wanted = observed * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    after = np.searchsorted(RATIOS, np.nan_to_num(wanted)).clip(1, len(RATIOS) - 1)
    nearer = np.abs(RATIOS[after - 1] - wanted) < np.abs(RATIOS[after] - wanted)
    shape = SHAPES[after - nearer]
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    left, right = left * scale, right * scale
    mean = (right - left) * gamma(2 / shape) / gamma(1 / shape)
    return shape, left, right, mean
