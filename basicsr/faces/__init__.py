"""Finding faces and bringing them into a template. NumPy in, NumPy out."""

from basicsr.faces.align import ARCFACE_112, FFHQ_512, lmeds_similarity, umeyama_similarity, warp_face
from basicsr.faces.detect import Face, ScrfdDetector, center_face, largest_face

__all__ = [
    "ARCFACE_112",
    "FFHQ_512",
    "Face",
    "ScrfdDetector",
    "center_face",
    "largest_face",
    "lmeds_similarity",
    "umeyama_similarity",
    "warp_face",
]
