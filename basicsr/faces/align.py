"""Face alignment: the landmark templates, similarity estimates, and the warp of a photo into FFHQ framing.

Five landmarks in the order left-image eye, right-image eye, nose, left and right corner of the mouth. Coordinates are
(x, y) in pixels, 0 at the centre of the first pixel.

Shapes: N landmarks; H, W photo; S side of the aligned face.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from basicsr.utils.img_util import Image

Points = NDArray[np.float64]

FFHQ_SIZE = 512  # px, side that FFHQ_512 is stated for
# facexlib's and CodeFormer's template, for landmarks of a RetinaFace-like detector
FFHQ_512: Points = np.array(
    [
        (192.98138, 239.94708),
        (318.90277, 240.1936),
        (256.63416, 314.01935),
        (201.26117, 371.41043),
        (313.08905, 371.15118),
    ]
)
# insightface's template, what ArcFace recognisers were trained on
ARCFACE_112: Points = np.array(
    [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ]
)
BORDER_BGR = (135, 133, 132)  # what CodeFormer's aligner fills the outside of the photo with
MAX_WARP_SIDE = 32_000  # OpenCV addresses warped pixels with 16 bits


def scale_template(template: Points, factor: float) -> Points:
    """A template for a picture `factor` times as large; pixel edges scale, so centres move by half a pixel less."""
    return (template + 0.5) * factor - 0.5


def umeyama_similarity(source: Points, target: Points) -> Points:
    """Least-squares similarity (2, 3) from `source` to `target`, both (N, 2). Umeyama 1991, without reflection.

    Raises:
        ValueError: all source points coincide.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    source_mean, target_mean = source.mean(0), target.mean(0)
    centered, target_centered = source - source_mean, target - target_mean
    variance = (centered**2).sum()
    if variance == 0:
        raise ValueError("landmarks coincide: no similarity can be estimated")
    u, singular, vt = np.linalg.svd(target_centered.T @ centered)
    signs = np.array([1.0, np.sign(np.linalg.det(u @ vt))])  # a reflection would turn the face inside out
    rotation = u @ np.diag(signs) @ vt
    linear = (singular * signs).sum() / variance * rotation
    return np.column_stack([linear, target_mean - linear @ source_mean])


def lmeds_similarity(source: Points, target: Points) -> Points:
    """Least-median-of-squares similarity (2, 3), both (N, 2); what CodeFormer aligns with. One bad landmark is ignored.

    Raises:
        ValueError: no similarity fits, e.g. all points coincide.
    """
    matrix, _ = cv2.estimateAffinePartial2D(
        np.asarray(source, np.float64), np.asarray(target, np.float64), method=cv2.LMEDS
    )
    if matrix is None or not np.isfinite(matrix).all():
        raise ValueError("landmarks coincide: no similarity can be estimated")
    return np.asarray(matrix, np.float64)


def warp_face(image: Image, landmarks: NDArray[np.floating[Any]], size: int = FFHQ_SIZE) -> Image:
    """Cut a face out of a photo in FFHQ framing.

    A shrinking warp samples on a grid that is finer by a whole factor and averages it, so that detail of the photo does
    not alias. The outside of the photo is filled with BORDER_BGR.

    Args:
        image: uint8 BGR (H, W, 3).
        landmarks: (5, 2) px of the photo.
        size: side S of the result, px.
    Returns:
        uint8 BGR (S, S, 3).
    """
    matrix = lmeds_similarity(np.asarray(landmarks, np.float64), scale_template(FFHQ_512, size / FFHQ_SIZE))
    shrink = 1 / np.sqrt(abs(np.linalg.det(matrix[:, :2])))  # px of the photo per px of the face
    factor = int(np.clip(np.ceil(shrink), 1, MAX_WARP_SIDE // size))
    fine = matrix * factor
    fine[:, 2] += (factor - 1) / 2  # centres: u -> (u + .5) * factor - .5
    warped = cv2.warpAffine(image, fine, (size * factor, size * factor), flags=cv2.INTER_LINEAR, borderValue=BORDER_BGR)
    return np.asarray(cv2.resize(warped, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
