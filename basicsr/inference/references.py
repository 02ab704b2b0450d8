"""Reference photos, read, checked and aligned: what is no photo of one person is one line that says what to do.

Shapes: H, W photo; S side of an aligned face.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from basicsr.faces import Face, FaceDetector, largest_face, warp_face
from basicsr.inference.values import check_square
from basicsr.utils.errors import ImageFileError
from basicsr.utils.img_util import Image, imread

logger = logging.getLogger(__name__)

REFERENCE_SIZE = 512  # px, side of an aligned reference
BYSTANDER = 0.25  # of the largest face's area: a smaller face does not make it unclear who is meant


class ReferenceReader:
    """Reads the reference photos of a run.

    Args:
        detector: finds the face; None: references are aligned crops and stay as they are.
    """

    def __init__(self, detector: FaceDetector | None) -> None:
        self.detector = detector

    def read(self, path: Path) -> Image:
        """The aligned face of a reference photo, uint8 BGR (S, S, 3).

        Raises:
            ImageFileError: it cannot be read, shows no face or several; without a detector: it is not square, or of one
                colour.
        """
        image = imread(path)
        if self.detector is None:
            check_square(image, str(path))
            if (image == image[0, 0]).all():
                raise ImageFileError(f"{path}: one colour, no face in this reference. Give a crop that shows the face.")
            return image
        return aligned_reference(image, self.detector.detect(image), str(path))


def aligned_reference(image: Image, faces: list[Face], name: str) -> Image:
    """The one face of a reference, uint8 BGR (S, S, 3). `image`: uint8 BGR (H, W, 3).

    Raises:
        ImageFileError: no face, or a second one that is not much smaller than the largest.
    """
    largest = largest_face(faces)
    if largest is None:
        raise ImageFileError(
            f"{name}: no face found in this reference. Give a photo that shows the face, lower --detection_threshold, "
            "or pass aligned crops with --has_aligned."
        )
    others = [face for face in faces if face is not largest]
    rivals = [face for face in others if _area(face) >= BYSTANDER * _area(largest)]
    if rivals:
        places = ", ".join(f"x {face.box[0]:.0f}-{face.box[2]:.0f}" for face in [largest, *rivals])
        raise ImageFileError(
            f"{name}: {1 + len(rivals)} faces in this reference ({places}), and it must show one person. Crop it "
            "to the person who is meant."
        )
    if others:
        logger.info("%s: %d small faces beside the largest are left out", name, len(others))
    try:
        return warp_face(image, largest.landmarks, REFERENCE_SIZE, border="edge")
    except ValueError as error:
        raise ImageFileError(f"{name}: the face cannot be aligned ({error}). Take another.") from error


def _area(face: Face) -> float:
    return float(np.prod(face.box[2:] - face.box[:2]))
