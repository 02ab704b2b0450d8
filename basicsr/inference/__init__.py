"""Restoring photos with trained weights."""

from basicsr.inference.gallery import Gallery, read_gallery
from basicsr.inference.jobs import Job, Request, find_jobs, read_pairs
from basicsr.inference.photo import Painter, PhotoFace, RestoredPhoto
from basicsr.inference.references import ReferenceReader
from basicsr.inference.restorer import FaceRestorer, References
from basicsr.inference.results_file import ResultsFile, read_results
from basicsr.inference.values import Knobs, RestoredFace, check_knobs, check_square, choose_device

__all__ = [
    "FaceRestorer",
    "Gallery",
    "Job",
    "Knobs",
    "Painter",
    "PhotoFace",
    "ReferenceReader",
    "References",
    "Request",
    "RestoredFace",
    "RestoredPhoto",
    "ResultsFile",
    "check_knobs",
    "check_square",
    "choose_device",
    "find_jobs",
    "read_gallery",
    "read_pairs",
    "read_results",
]
