"""Yaw of a head from five landmarks: a small geometric estimate, for sorting faces into bins, not for measuring.

The eyes' centres lie 2a apart, the tip of the nose a depth d before the plane of eyes and mouth. Turned by yaw and
seen from far away, the distance of the eyes shrinks to 2a cos(yaw), and the nose moves d sin(yaw) along the line of
the eyes, away from the middle of the face. So tan(yaw) = (shift / eye distance) * 2a / d. d / 2a is set to NOSE_DEPTH
for everybody; a nose that is a fifth longer reads 4 degrees more at 25. Roll does not matter; beyond 60 degrees the
landmarks of hidden eyes are guesses.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NOSE_DEPTH = 0.5  # of the distance of the eyes' centres


def estimate_yaw(landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
    """Degrees (N,), > 0: the nose points to the image's right.

    Args:
        landmarks: (N, 5, 2) px, in the order of basicsr/faces/align.py.
    """
    points = np.asarray(landmarks, np.float64)
    left, right, nose = points[:, 0], points[:, 1], points[:, 2]
    across = right - left  # (N, 2)
    distance = np.linalg.norm(across, axis=1)
    eyes, mouth = (left + right) / 2, (points[:, 3] + points[:, 4]) / 2
    down = mouth - eyes
    # the point of the middle line (eyes to mouth) level with the nose: a head that is rolled or a face that is skewed
    # by the yaw itself moves that line, and the nose is measured from it
    share = ((nose - eyes) * down).sum(1) / np.maximum((down**2).sum(1), np.finfo(float).tiny)
    shift = ((nose - eyes - share[:, None] * down) * across).sum(1) / np.maximum(distance, np.finfo(float).tiny)
    return np.degrees(np.arctan2(shift, distance * NOSE_DEPTH))
