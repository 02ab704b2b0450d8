"""What is made of an evaluation's values: slices, comparison with a baseline, checks, and the sweep of w."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from basicsr.evaluation.checks import Check, check_runs, overfit_checks, refuse_unknown_roles, roles_from_names
from basicsr.evaluation.comparison import COMPARED_KINDS, NUM_RESAMPLES, Difference, Question, ask_runs, compare_runs
from basicsr.evaluation.groups import GroupTable, group_tables
from basicsr.evaluation.results import EvaluationResult
from basicsr.evaluation.runs import runs_of
from basicsr.evaluation.slices import Slice, make_slices
from basicsr.utils.errors import UserError

W_IN_NAME = re.compile(r"^(?P<family>.+?)[ _@,]+w ?=? ?(?P<w>\d*\.?\d+)$")  # "D w=0.5", "D_w0.5"


@dataclass(frozen=True)
class SweepPoint:
    """One run of a family that differs in the fidelity weight."""

    family: str
    w: float
    run: str


@dataclass(frozen=True)
class Analysis:
    """Everything beside the means of the runs."""

    slices: list[Slice] = field(default_factory=list)
    groups: list[GroupTable] = field(default_factory=list)
    baseline: str | None = None  # None beside differences: they answer questions
    differences: list[Difference] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    overfit: list[Check] = field(default_factory=list)  # a family of their own
    sweep: list[SweepPoint] = field(default_factory=list)


def analyse(
    result: EvaluationResult,
    *,
    baseline: str | None = None,
    compared: Sequence[str] | None = None,
    roles: Mapping[str, str] | None = None,
    slices: Sequence[str] | None = None,
    questions: Sequence[Question] | None = None,
    num_resamples: int = NUM_RESAMPLES,
) -> Analysis:
    """Slices, differences to the baseline, checks.

    Args:
        baseline: run that the others are compared with; None: the first one.
        compared: keys of the figures that make up the family of comparisons; None: all that rank runs.
        roles: run by role, see checks.ROLES; None: by the names of the runs.
        slices: attributes; None: all that sort pictures into groups.
        questions: differences that are tested in place of every run against the baseline.
    Raises:
        UserError: a run, a figure, a role or an attribute that is not there.
    """
    runs = runs_of(result)
    found: list[Difference] = []
    refuse_unknown_runs(result.runs, baseline, roles)
    chosen = result.runs[0] if baseline is None else baseline
    ranked = any(f.kind in COMPARED_KINDS and result.common_names(f.key) for f in result.figures)
    for question in questions or ():
        for label in (question.run, question.minus):
            if label not in result.runs:
                raise UserError(f"'{question.text}': no run '{label}'; there are: {', '.join(result.runs)}")
    if questions is not None:
        answers = ask_runs(runs, questions, compared, seed=result.seed, num_resamples=num_resamples)
        found = [difference for _, difference in answers]
    elif len(runs) > 1 and (ranked or compared is not None):
        found = compare_runs(runs, chosen, compared, seed=result.seed, num_resamples=num_resamples)
    families = roles_from_names(result.runs) if roles is None else [roles]
    made = make_slices(result, slices)
    return Analysis(
        slices=made,
        groups=group_tables(result, made),
        baseline=chosen if found and questions is None else None,
        differences=found,
        checks=check_runs(runs, families, seed=result.seed, num_resamples=num_resamples),
        overfit=overfit_checks(runs, chosen, seed=result.seed, num_resamples=num_resamples),
        sweep=sweep_points(result.runs),
    )


def refuse_unknown_runs(runs: Sequence[str], baseline: str | None, roles: Mapping[str, str] | None) -> None:
    """UserError where the baseline or a role names no run. Can be asked before hours of measuring."""
    if baseline is not None and baseline not in runs:
        raise UserError(f"baseline '{baseline}': expected one of {', '.join(runs)}")
    refuse_unknown_roles(runs, roles or {})


def sweep_points(runs: Sequence[str]) -> list[SweepPoint]:
    """Runs whose names end in `w=<number>`, where at least two share the rest of the name."""
    matches = [(run, W_IN_NAME.match(run)) for run in runs]
    points = [SweepPoint(found["family"], float(found["w"]), run) for run, found in matches if found is not None]
    families = [point.family for point in points]
    kept = [point for point in points if families.count(point.family) > 1]
    return sorted(kept, key=lambda point: (families.index(point.family), point.w))
