"""report.html: one file that needs no network, for people to look at; report.md: the same tables as text.

The numbers are those of tables.py.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from basicsr.evaluation.analysis import Analysis, analyse
from basicsr.evaluation.cells import (
    calibration_row,
    check_rows,
    difference_rows,
    group_cells,
    main_table,
    percentile_cells,
    slice_tables,
)
from basicsr.evaluation.charts import (
    COLORS,
    MAX_LINES,
    NATURAL_COLOR,
    Curves,
    curves_svg,
    distribution_svg,
    spread_svg,
)
from basicsr.evaluation.gallery import gallery, slice_gallery, write_grids
from basicsr.evaluation.relation_charts import Swept, scatter_svg, sweep_svg, trade_off_svg
from basicsr.evaluation.results import EvaluationResult, Figure
from basicsr.evaluation.statistics import PERCENTILES, Summary
from basicsr.evaluation.tables import CONFIDENCE, interval_text
from basicsr.utils.img_util import read_bytes
from basicsr.utils.text_util import write_text

TEMPLATE, TEXT_TEMPLATE = "report.html.j2", "report.md.j2"
FAILURES_SHOWN = 50
WIDE_FROM = 9  # runs: the main table then has a row per run, and pictures flow over several lines


@dataclass(frozen=True)
class Distribution:
    """One judge: chart and percentiles."""

    label: str
    svg: str
    rows: list[tuple[str, str, list[str]]]  # run, colour, percentiles then mean


def write_report(
    result: EvaluationResult,
    folder: Path,
    curves: Mapping[str, Curves] | None = None,
    analysis: Analysis | None = None,
    cover: Path | None = None,
) -> Path:
    """Write report.html and report.md into `folder`, and grid_<column>.png for slices; returns the path of the first.

    Args:
        curves: what `read_curves` found, by the name of the training run.
        analysis: slices, comparison and checks; None: the defaults of `analyse`.
        cover: PNG that the first screen of report.html shows, with the note of the result as its sentence.
    Raises:
        UserError: the folder cannot be written, or the cover cannot be read.
    """
    contents = report_contents(result, curves or {}, analysis or analyse(result))
    contents["cover"] = None if cover is None else base64.b64encode(read_bytes(cover)).decode("ascii")
    if contents["slice_gallery"] is not None:
        write_grids(contents["slice_gallery"], folder)
    write_text(folder / "report.md", environment(escaped=False).get_template(TEXT_TEMPLATE).render(contents))
    path = folder / "report.html"
    write_text(path, environment(escaped=True).get_template(TEMPLATE).render(contents))
    return path


def environment(escaped: bool) -> jinja2.Environment:
    """The templates beside this file."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=escaped,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def report_contents(result: EvaluationResult, curves: Mapping[str, Curves], analysis: Analysis) -> dict[str, Any]:
    """What the templates print."""
    rows = main_table(result)
    return {
        "result": result,
        "analysis": analysis,
        "num_judged": max((row.n for row in rows), default=0),
        "num_identities": len({pair.identity for pair in result.pairs} - {None}),
        "rows": rows,
        "interval": interval_text(result),
        "level": f"{CONFIDENCE:.0%}",
        "distributions": distributions(result),
        "percentiles": [f"p{p}" for p in PERCENTILES],
        "differences": difference_rows(analysis),
        "checks": check_rows(analysis.checks),
        "overfit": check_rows(analysis.overfit),
        "calibrations": [calibration_row(found.judge, found) for found in result.calibrations],
        "groups": [(table, group_cells(table, result.runs)) for table in analysis.groups],
        "wide": len(result.runs) >= WIDE_FROM,
        "slices": slice_tables(result, analysis),
        "scatters": scatters(result),
        "sweeps": sweeps(result, analysis),
        "gallery": gallery(result),
        "slice_gallery": slice_gallery(result, analysis.slices) if len(result.runs) > 1 else None,
        "curves": {name: curves_svg(name, losses) for name, losses in curves.items()},
        "failures_shown": FAILURES_SHOWN,
    }


def distributions(result: EvaluationResult) -> list[Distribution]:
    """Chart and percentiles of every judge's IDS, with cos(ref, GT) beside it."""
    found = []
    judged = [*result.figures_of_kind("ids"), *result.figures_of_kind("ids_gallery")]
    for figure in judged or result.figures_of_kind("ids_lq"):
        if not result.common_names(figure.key):
            continue
        values = {run: result.values_of(run, figure.key) for run in result.runs}
        natural_kind = {"ids": "cos_ref_gt", "ids_gallery": "cos_ref_gallery"}.get(figure.kind, "")
        natural = next((f for f in result.figures_of_kind(natural_kind) if f.judge == figure.judge), None)
        if natural is not None and not result.common_names(natural.key):
            natural = None
        first = result.runs[0]
        background = result.values_of(first, natural.key) if natural is not None else None
        rows = [
            (run, COLORS[i % len(COLORS)], percentile_cells(result.summaries[run, figure.key], figure.digits))
            for i, run in enumerate(result.runs)
        ]
        if natural is not None:
            cells = percentile_cells(result.summaries[first, natural.key], natural.digits)
            rows.append((natural_label(result, natural), NATURAL_COLOR, cells))
        threshold = next((c.threshold for c in result.calibrations if c.judge == figure.judge), None)
        draw = distribution_svg if len(values) <= MAX_LINES else spread_svg
        svg = draw(figure.label, values, background, threshold)
        found.append(Distribution(figure.label, svg, rows))
    return found


def natural_label(result: EvaluationResult, natural: Figure) -> str:
    """Name of the gray line; it says whose references it is about where the runs were given different ones."""
    first, *others = result.runs
    values = result.values[first][natural.key]
    same = all(result.values[run][natural.key] == values for run in others)
    name = natural.label.split(" (")[0] if natural.kind != "cos_ref_gt" else "cos(ref, GT)"
    return name if same else f"{name}, references of {first}"


def scatters(result: EvaluationResult) -> list[tuple[str, str]]:
    """Label and chart, identity after restoration against before, for each judge."""
    drawn = []
    for before_kind, after_kind in (("cos_lq_gt", "ids"), ("cos_lq_gallery", "ids_gallery")):
        for after in result.figures_of_kind(after_kind):
            before = next((f for f in result.figures_of_kind(before_kind) if f.judge == after.judge), None)
            if before is None:
                continue
            points = {}
            for run in result.runs:
                x, y = result.values[run][before.key], result.values[run][after.key]
                points[run] = ([x[name] for name in x if name in y], [y[name] for name in x if name in y])
            if any(x for x, _ in points.values()):
                drawn.append((after.label, scatter_svg(after.label, before.label, points)))
    return drawn


def sweeps(result: EvaluationResult, analysis: Analysis) -> list[str]:
    """A chart of the means against w, a panel per figure that ranks runs; and identity against perceptual distance."""

    def lines_of(figure: Figure) -> dict[str, Swept]:
        lines: dict[str, list[tuple[float, Summary]]] = {}
        for point in analysis.sweep:
            if (point.run, figure.key) in result.summaries:
                lines.setdefault(point.family, []).append((point.w, result.summaries[point.run, figure.key]))
        return dict(lines)

    ranked = [figure for figure in result.figures if figure.better != "neither"]
    panels = [(figure, lines) for figure in ranked if (lines := lines_of(figure))]
    charts = [sweep_svg([(figure.label, lines) for figure, lines in panels])] if panels else []
    swept = {figure.kind: (figure, lines) for figure, lines in reversed(panels)}  # the first of each kind
    if {"perceptual", "ids"} <= swept.keys():
        (x, across), (y, up) = swept["perceptual"], swept["ids"]
        charts.append(trade_off_svg(x.label, y.label, {family: (across[family], up[family]) for family in across}))
    return charts
