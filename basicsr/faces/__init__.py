"""Finding faces and bringing them into a template. NumPy in, NumPy out."""

from basicsr.faces.align import (
    ARCFACE_112,
    FFHQ_512,
    Border,
    ffhq_matrix,
    lmeds_similarity,
    share_outside,
    umeyama_similarity,
    warp_by,
    warp_face,
)
from basicsr.faces.detect import Face, ScrfdDetector, center_face, largest_face
from basicsr.faces.load import AlignedDetector, FaceDetector, load_detector

__all__ = [
    "ARCFACE_112",
    "FFHQ_512",
    "AlignedDetector",
    "Border",
    "Face",
    "FaceDetector",
    "ScrfdDetector",
    "center_face",
    "ffhq_matrix",
    "largest_face",
    "lmeds_similarity",
    "load_detector",
    "share_outside",
    "umeyama_similarity",
    "warp_by",
    "warp_face",
]
