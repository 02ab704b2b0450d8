"""Numbers as tables print them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from basicsr.evaluation.analysis import Analysis
from basicsr.evaluation.checks import Check
from basicsr.evaluation.comparison import Difference
from basicsr.evaluation.groups import GroupTable
from basicsr.evaluation.results import Calibration, EvaluationResult
from basicsr.evaluation.statistics import PERCENTILES, Summary

ARROWS = {"higher": "↑", "lower": "↓", "neither": ""}
SLICE_KINDS_SHOWN = ("ids", "ids_gallery", "miss")
SMALLEST_P = 1e-3


@dataclass(frozen=True)
class Cell:
    """One figure of one run, ready to print."""

    mean: str
    interval: str
    is_best: bool


@dataclass(frozen=True)
class Row:
    """One line of the main table."""

    label: str
    arrow: str
    n: int
    cells: list[Cell]


def main_table(result: EvaluationResult) -> list[Row]:
    """A row per figure, a cell per run."""
    rows = []
    for figure in result.figures:
        summaries = [result.summaries.get((run, figure.key)) for run in result.runs]
        known = [summary for summary in summaries if summary is not None]
        if len(known) < len(result.runs):
            continue  # no picture has this figure in every run; the failures say why
        best = result.best_runs(figure)
        cells = [
            Cell(decimal(summary.mean, figure.digits), interval_of(summary, figure.digits), run in best)
            for run, summary in zip(result.runs, known, strict=True)
        ]
        rows.append(Row(figure.label, ARROWS[figure.better], known[0].n, cells))
    return rows + set_rows(result) + fault_rows(result)


def fault_rows(result: EvaluationResult) -> list[Row]:
    """How many pictures have a fault, where any has: what is left out of the means must be seen beside them."""
    counts = [result.num_faulty(run) for run in result.runs]
    if not any(counts):
        return []
    cells = [Cell(str(count), "", False) for count in counts]
    return [Row("Pictures with a fault (listed above)", ARROWS["lower"], len(result.pairs), cells)]


def set_rows(result: EvaluationResult) -> list[Row]:
    """Figures of a whole set: no interval, since they are no means over pictures."""
    rows = []
    for figure in result.set_figures:
        found = [result.set_values.get(run, {}).get(figure.key) for run in result.runs]
        values = [value for value in found if value is not None]
        if len(values) == len(result.runs):
            cells = [Cell(decimal(v, figure.digits), "", False) for v in values]  # no interval, no ranking
            rows.append(Row(figure.label, ARROWS[figure.better], len(result.pairs), cells))
    return rows


def decimal(value: float, digits: int) -> str:
    """A number as tables print it, with a real minus sign."""
    if math.isnan(value):
        return "undefined"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.{digits}f}".replace("-", "−")


def interval_of(summary: Summary, digits: int) -> str:
    """`[low, high]`, or nothing where the interval is undefined."""
    if summary.ci_low is None or summary.ci_high is None:
        return ""
    return f"[{decimal(summary.ci_low, digits)}, {decimal(summary.ci_high, digits)}]"


def percentile_cells(summary: Summary, digits: int) -> list[str]:
    """Percentiles, mean and deviation, as text."""
    spread = "" if summary.sd is None else decimal(summary.sd, digits)
    return [*(decimal(summary.percentiles[p], digits) for p in PERCENTILES), decimal(summary.mean, digits), spread]


@dataclass(frozen=True)
class DifferenceRow:
    """A difference, ready to print."""

    title: str
    figure: str
    mean: str
    interval: str
    p: str
    detectable: str
    verdict: str
    n: str


def difference_row(difference: Difference, title: str, verdict: str) -> DifferenceRow:
    """One row of the comparison or of the checks."""
    digits = difference.contrast.figure.digits
    bounds = (difference.ci_low, difference.ci_high)
    interval = "" if None in bounds else f"[{', '.join(signed(b, digits) for b in bounds if b is not None)}]"
    p = difference.p_holm
    return DifferenceRow(
        title=title,
        figure=difference.contrast.figure.label,
        mean=signed(difference.mean, digits),
        interval=interval,
        p="" if p is None else f"< {SMALLEST_P:g}" if p < SMALLEST_P else f"{p:.3f}",
        detectable="" if difference.detectable is None else decimal(difference.detectable, digits),
        verdict=verdict,
        n=f"{difference.n} / {difference.num_people}",
    )


def signed(value: float, digits: int) -> str:
    """A difference with its sign."""
    return ("+" if value > 0 else "") + decimal(value, digits)


def difference_rows(analysis: Analysis) -> list[DifferenceRow]:
    """The comparison with the baseline, or the answers to questions."""
    if analysis.baseline is not None:
        return [difference_row(d, d.contrast.title, d.verdict) for d in analysis.differences]
    titles = [f"{d.contrast.title} {d.contrast.run} − {d.contrast.minus_run}" for d in analysis.differences]
    return [difference_row(d, title, d.verdict) for d, title in zip(analysis.differences, titles, strict=True)]


def check_rows(checks: Sequence[Check]) -> list[DifferenceRow]:
    """Checks, or overfit checks, each with the runs that it is about."""
    contrasts = [check.difference.contrast for check in checks]
    about = [c.run if c.run == c.minus_run else f"{c.run} − {c.minus_run}" for c in contrasts]
    return [
        difference_row(check.difference, f"{check.question} {runs}", check.answer)
        for check, runs in zip(checks, about, strict=True)
    ]


@dataclass(frozen=True)
class CalibrationRow:
    """What a judge's cosines mean, ready to print."""

    name: str  # judge, or value of a slice
    genuine: str
    impostor: str
    threshold: str
    interval: str
    tar: str
    source: str


def calibration_row(name: str, found: Calibration) -> CalibrationRow:
    """One calibration."""
    low, high = found.threshold_low, found.threshold_high
    return CalibrationRow(
        name=name,
        genuine=f"{decimal(found.genuine_mean, 3)} ± {found.genuine_sd:.3f} ({found.num_genuine})",
        impostor=f"{decimal(found.impostor_mean, 3)} ± {found.impostor_sd:.3f} ({found.num_impostor})",
        threshold=decimal(found.threshold, 3),
        interval="" if low is None or high is None else f"[{decimal(low, 3)}, {decimal(high, 3)}]",
        tar=f"{100 * found.tar:.1f} %",
        source=found.source,
    )


@dataclass(frozen=True)
class GroupCells:
    """One slice as a judge sees it: its calibration, and for each run the normalised IDS and the missed share."""

    calibration: CalibrationRow
    n: int
    cells: list[tuple[Cell, Cell]]


def group_cells(table: GroupTable, runs: Sequence[str]) -> list[GroupCells]:
    """The rows of a group table."""
    return [
        GroupCells(
            calibration_row(row.value, row.calibration),
            row.n,
            [(summary_cell(row.normalized[run], 2), summary_cell(row.missed[run], 2)) for run in runs],
        )
        for row in table.rows
    ]


def summary_cell(summary: Summary, digits: int) -> Cell:
    """A mean with its interval; nothing is ranked."""
    return Cell(decimal(summary.mean, digits), interval_of(summary, digits), False)


@dataclass(frozen=True)
class SliceTable:
    """One figure by the values of one column: (value, n, people, a cell per run)."""

    column: str
    label: str
    rows: list[tuple[str, int, int, list[Cell]]]


def slice_tables(result: EvaluationResult, analysis: Analysis) -> list[SliceTable]:
    """Identity figures by slice; where no judge took part, the other figures of the slices."""
    identity = [figure for figure in result.figures if figure.kind in SLICE_KINDS_SHOWN]
    tables = []
    for one in analysis.slices:
        for figure in identity or result.figures:
            rows = []
            for row in one.rows:
                found = [row.summaries.get((run, figure.key)) for run in result.runs]
                known = [summary for summary in found if summary is not None]
                if len(known) == len(result.runs):
                    cells = [summary_cell(summary, figure.digits) for summary in known]
                    rows.append((row.value, known[0].n, row.num_people, cells))
            if rows:
                tables.append(SliceTable(one.column, f"{figure.label} {ARROWS[figure.better]}", rows))
    return tables
