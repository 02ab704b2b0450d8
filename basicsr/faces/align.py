"""Face alignment: the landmark templates, similarity estimates, and the warp of a photo into FFHQ framing.

Five landmarks in the order left-image eye, right-image eye, nose, left and right corner of the mouth. Coordinates are
(x, y) in pixels, 0 at the centre of the first pixel.

Shapes: N landmarks; H, W photo; S side of the aligned face.
"""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from basicsr.utils.img_util import Image

Points = NDArray[np.float64]
Border = Literal["gray", "edge", "reflect"]

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
BORDERS: dict[Border, int] = {
    "gray": cv2.BORDER_CONSTANT,
    "edge": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT_101,
}
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


def ffhq_matrix(landmarks: NDArray[np.floating[Any]], size: int = FFHQ_SIZE) -> Points:
    """Similarity (2, 3) from px of the photo to px of the face of side `size` in FFHQ framing. `landmarks`: (5, 2).

    Raises:
        ValueError: see `lmeds_similarity`.
    """
    return lmeds_similarity(np.asarray(landmarks, np.float64), scale_template(FFHQ_512, size / FFHQ_SIZE))


def warp_face(
    image: Image, landmarks: NDArray[np.floating[Any]], size: int = FFHQ_SIZE, border: Border = "gray"
) -> Image:
    """Cut a face out of a photo in FFHQ framing; see `warp_by`. `landmarks`: (5, 2) px of the photo."""
    return warp_by(image, ffhq_matrix(landmarks, size), size, border)


def warp_by(image: Image, matrix: Points, size: int, border: Border = "gray") -> Image:
    """The square of `size` px onto which a similarity brings a part of the photo.

    A shrinking warp samples on a grid that is finer by a whole factor and averages it, so that detail of the photo does
    not alias.

    Args:
        image: uint8 BGR (H, W, 3).
        matrix: (2, 3), px of the photo to px of the result.
        size: side S of the result, px.
        border: what fills the outside of the photo: BORDER_BGR, its edge pixels, or its mirror image.
    Returns:
        uint8 BGR (S, S, 3).
    """
    shrink = 1 / np.sqrt(abs(np.linalg.det(matrix[:, :2])))  # px of the photo per px of the face
    factor = int(np.clip(np.ceil(shrink - 1e-6), 1, MAX_WARP_SIDE // size))
    fine = matrix * factor
    fine[:, 2] += (factor - 1) / 2  # centres: u -> (u + .5) * factor - .5
    side = size * factor
    warped = cv2.warpAffine(
        image, fine, (side, side), flags=cv2.INTER_LINEAR, borderMode=BORDERS[border], borderValue=BORDER_BGR
    )
    return np.asarray(cv2.resize(warped, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def share_outside(matrix: Points, size: int, image_size: tuple[int, int]) -> float:
    """Share of the aligned square that lies outside of a photo of `image_size` (H, W), 0..1."""
    to_photo = np.asarray(cv2.invertAffineTransform(matrix))
    corners = np.array([(0, 0), (size, 0), (size, size), (0, size)], np.float64) - 0.5
    quad = (corners @ to_photo[:, :2].T + to_photo[:, 2]).astype(np.float32)
    height, width = image_size
    photo = (np.array([(0, 0), (width, 0), (width, height), (0, height)]) - 0.5).astype(np.float32)
    inside, _ = cv2.intersectConvexConvex(quad, photo)
    return float(np.clip(1 - inside / max(cv2.contourArea(quad), 1e-9), 0, 1))
