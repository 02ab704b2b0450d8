"""Landmark distance: how far the eyes, the nose and the corners of the mouth moved, as a detector sees it.

Shapes: five landmarks (5, 2), px.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from basicsr.faces.align import Points
from basicsr.faces.detect import ScrfdDetector, center_face
from basicsr.utils.img_util import Image

LOST_FACE = 100.0  # %, what a face counts that the detector cannot find, and the most that any face counts
PROTOCOL = (
    "mean distance of five landmarks in the restored face and the GT, each as the detector finds it at 320 px, in % of "
    f"the distance of the eyes in the GT, at most {LOST_FACE:g}; a face that is not found in the restored picture "
    f"counts {LOST_FACE:g} and is never left out"
)


def find_landmarks(image: Image, detector: ScrfdDetector) -> Points | None:
    """Landmarks (5, 2) of the face nearest to the centre of a uint8 BGR picture; None where there is none."""
    face = center_face(detector.detect(image), image.shape[:2])
    return None if face is None else np.asarray(face.landmarks, np.float64)


def landmark_distance(restored: NDArray[np.float64] | None, gt: Points) -> float:
    """Distance in % of the distance of the eyes, 0 to LOST_FACE; `restored` None: no face was found."""
    if restored is None:
        return LOST_FACE
    eyes = float(np.linalg.norm(gt[0] - gt[1]))
    moved = float(np.linalg.norm(restored - gt, axis=1).mean())
    return min(LOST_FACE, 100 * moved / eyes) if eyes > 0 else LOST_FACE
