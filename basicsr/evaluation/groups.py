"""Slices as a judge sees them.

A judge is not equally good for all groups of people, so a lower cosine of one group may be the judge's own: its cosines
are set against those of two photos of one person, and of two people, in the same slice.

Shapes: N images; K columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from basicsr.evaluation.results import Calibration, EvaluationResult, Figure
from basicsr.evaluation.slices import Slice
from basicsr.evaluation.statistics import Summary, summarize_columns
from basicsr.utils.seed import rng_for


@dataclass(frozen=True)
class GroupRow:
    """One value of a column. Summaries by run."""

    value: str
    calibration: Calibration
    n: int
    normalized: Mapping[str, Summary]  # 0: as two people of this group, 1: as two photos of one person of it
    missed: Mapping[str, Summary]  # share at or below the threshold of this group


@dataclass(frozen=True)
class GroupTable:
    """One column of the pictures' attributes for one judge."""

    column: str
    judge: str
    rows: list[GroupRow]
    too_few: list[tuple[str, str]]  # value, and why the judge cannot be calibrated on it


def group_tables(result: EvaluationResult, slices: Sequence[Slice]) -> list[GroupTable]:
    """A table for each slice and judge that has a calibration for at least two of its values."""
    tables = []
    judged = {f.judge: f for kind in ("ids_gallery", "ids") for f in result.figures_of_kind(kind)}
    for one in slices:
        for judge, figure in judged.items():
            found = [g for g in result.group_calibrations if g.column == one.column]
            known = {
                g.value: g.calibration
                for g in found
                if isinstance(g.calibration, Calibration) and g.calibration.judge == judge
            }
            too_few = [(row.value, "too few pairs") for row in one.rows if row.value not in known]
            rows = [
                group_row(result, figure, row.value, row.names, known[row.value])
                for row in one.rows
                if row.value in known
            ]
            if len(known) > 1:
                tables.append(GroupTable(one.column, judge, [row for row in rows if row], too_few))
    return tables


def group_row(
    result: EvaluationResult, figure: Figure, value: str, names: Sequence[str], calibration: Calibration
) -> GroupRow | None:
    """The identity figure of some pictures against the calibration of their group; None where no run has it."""
    inside = set(names)
    common = [name for name in result.common_names(figure.key) if name in inside]
    if not common:
        return None
    ids = np.array([[result.values[run][figure.key][name] for name in common] for run in result.runs]).T  # (N, runs)
    normalized = (ids - calibration.impostor_mean) / (calibration.genuine_mean - calibration.impostor_mean)
    missed = (ids <= calibration.threshold).astype(np.float64)
    columns = np.concatenate([normalized, missed], axis=1)  # (N, K)
    found = summarize_columns(columns, result.clusters(common), rng_for(result.seed), result.num_resamples)
    runs, half = result.runs, len(result.runs)
    return GroupRow(
        value, calibration, len(common), dict(zip(runs, found[:half], strict=True)),
        dict(zip(runs, found[half:], strict=True)),
    )  # fmt: skip
