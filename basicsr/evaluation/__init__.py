"""Judging folders of results: pairing, figures with intervals, and the report."""

from basicsr.evaluation.analysis import Analysis, analyse, refuse_unknown_runs
from basicsr.evaluation.charts import read_curves
from basicsr.evaluation.evaluate import evaluate_folders
from basicsr.evaluation.judging_options import JudgingOptions
from basicsr.evaluation.report import write_report
from basicsr.evaluation.results import EvaluationResult
from basicsr.evaluation.sources import Sources
from basicsr.evaluation.tables import write_tables
from basicsr.utils.text_util import make_folder

__all__ = [
    "Analysis",
    "EvaluationResult",
    "JudgingOptions",
    "Sources",
    "analyse",
    "evaluate_folders",
    "make_folder",
    "read_curves",
    "refuse_unknown_runs",
    "write_report",
    "write_tables",
]
