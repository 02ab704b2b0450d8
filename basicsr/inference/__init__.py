"""Restoring photos with trained weights."""

from basicsr.inference.jobs import Job, Request, find_jobs, read_pairs
from basicsr.inference.restorer import FaceRestorer, Knobs, References, RestoredFace, check_knobs, check_square
from basicsr.inference.results_file import ResultsFile, read_results

__all__ = [
    "FaceRestorer",
    "Job",
    "Knobs",
    "References",
    "Request",
    "RestoredFace",
    "ResultsFile",
    "check_knobs",
    "check_square",
    "find_jobs",
    "read_pairs",
    "read_results",
]
