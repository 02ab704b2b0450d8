"""report.html: one file that needs no network, for people to look at. The numbers are those of tables.py.

Shapes: H, W pixels.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import jinja2
import numpy as np

from basicsr.evaluation.charts import COLORS, NATURAL_COLOR, Curves, curves_svg, distribution_svg
from basicsr.evaluation.results import EvaluationPair, EvaluationResult, Figure
from basicsr.evaluation.statistics import PERCENTILES, Summary
from basicsr.evaluation.tables import CONFIDENCE, interval_text
from basicsr.utils.errors import ImageFileError
from basicsr.utils.img_util import imread
from basicsr.utils.text_util import write_text

TEMPLATE = "report.html.j2"
THUMBNAIL_SIDE = 192  # px; smaller pictures are kept as they are
LOSSLESS_SIDE = 128  # px; up to it thumbnails are PNG: JPEG would blur what is judged
THUMBNAIL_QUALITY = 90
ROWS_PER_GROUP = 4
FAILURES_SHOWN = 50
ARROWS = {"higher": "↑", "lower": "↓", "neither": ""}


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


@dataclass(frozen=True)
class Thumbnail:
    """One picture of the gallery; `source` is a data URI, empty when the picture cannot be shown."""

    source: str
    caption: str
    title: str


@dataclass(frozen=True)
class GalleryRow:
    """One face: LQ, reference, every run, GT."""

    name: str
    thumbnails: list[Thumbnail]


@dataclass(frozen=True)
class Gallery:
    """Worst, median and best pictures by one figure of one run."""

    order: str
    columns: list[str]
    groups: list[tuple[str, list[GalleryRow]]]


@dataclass(frozen=True)
class Distribution:
    """One judge: chart and percentiles."""

    label: str
    svg: str
    rows: list[tuple[str, str, list[str]]]  # run, colour, percentiles then mean


def write_report(result: EvaluationResult, folder: Path, curves: Mapping[str, Curves] | None = None) -> Path:
    """Write report.html into `folder`.

    Args:
        curves: what `read_curves` found, by the name of the training run.
    Raises:
        UserError: the folder cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    drawn = {name: curves_svg(name, losses) for name, losses in (curves or {}).items()}
    html = environment.get_template(TEMPLATE).render(
        result=result,
        num_judged=max((row.n for row in main_table(result)), default=0),
        num_identities=len({pair.identity for pair in result.pairs} - {None}),
        rows=main_table(result),
        interval=interval_text(result),
        level=f"{CONFIDENCE:.0%}",
        distributions=distributions(result),
        percentiles=[f"p{p}" for p in PERCENTILES],
        gallery=gallery(result),
        curves=drawn,
        failures_shown=FAILURES_SHOWN,
    )
    path = folder / "report.html"
    write_text(path, html)
    return path


def main_table(result: EvaluationResult) -> list[Row]:
    """A row per figure, a cell per run."""
    rows = []
    for figure in result.figures:
        summaries = [result.summaries.get((run, figure.key)) for run in result.runs]
        known = [summary for summary in summaries if summary is not None]
        if len(known) < len(result.runs):
            continue  # no picture has this figure in every run; the failures say why
        best = result.best_run(figure)
        cells = [
            Cell(decimal(summary.mean, figure.digits), interval_of(summary, figure.digits), run == best)
            for run, summary in zip(result.runs, known, strict=True)
        ]
        rows.append(Row(figure.label, ARROWS[figure.better], known[0].n, cells))
    return rows


def decimal(value: float, digits: int) -> str:
    """A number as tables print it, with a real minus sign."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.{digits}f}".replace("-", "−")


def interval_of(summary: Summary, digits: int) -> str:
    """`[low, high]`, or nothing where the interval is undefined."""
    if summary.ci_low is None or summary.ci_high is None:
        return ""
    return f"[{decimal(summary.ci_low, digits)}, {decimal(summary.ci_high, digits)}]"


def distributions(result: EvaluationResult) -> list[Distribution]:
    """Chart and percentiles of every judge's IDS, with cos(ref, GT) beside it."""
    found = []
    for figure in result.figures_of_kind("ids"):
        if not result.common_names(figure.key):
            continue
        values = {run: result.values_of(run, figure.key) for run in result.runs}
        natural = next((f for f in result.figures_of_kind("cos_ref_gt") if f.judge == figure.judge), None)
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
        found.append(Distribution(figure.label, distribution_svg(figure.label, values, background), rows))
    return found


def natural_label(result: EvaluationResult, natural: Figure) -> str:
    """Name of the gray line; it says whose references it is about where the runs were given different ones."""
    first, *others = result.runs
    values = result.values[first][natural.key]
    same = all(result.values[run][natural.key] == values for run in others)
    return "cos(ref, GT)" if same else f"cos(ref, GT), references of {first}"


def percentile_cells(summary: Summary, digits: int) -> list[str]:
    """Percentiles, mean and deviation, as text."""
    spread = "" if summary.sd is None else decimal(summary.sd, digits)
    return [*(decimal(summary.percentiles[p], digits) for p in PERCENTILES), decimal(summary.mean, digits), spread]


def ranking_figure(result: EvaluationResult) -> Figure | None:
    """What pictures are sorted by: identity if it was judged, else perceptual distance, else PSNR."""
    for kind in ("ids", "perceptual", "pixel"):
        for figure in result.figures_of_kind(kind):
            if result.common_names(figure.key):
                return figure
    return None


def gallery(result: EvaluationResult) -> Gallery | None:
    """Worst, median and best pictures of the run with the best mean; all of them when there are few."""
    figure = ranking_figure(result)
    if figure is None:
        return None
    run = result.best_run(figure) or result.runs[0]
    names = sorted(result.common_names(figure.key), key=lambda name: result.values[run][figure.key][name])
    if figure.better == "lower":
        names.reverse()  # worst first
    pairs = {pair.name: pair for pair in result.pairs}
    if len(names) <= 3 * ROWS_PER_GROUP:
        chosen: list[tuple[str, Sequence[str]]] = [("From worst to best", names)]
    else:
        middle = (len(names) - ROWS_PER_GROUP) // 2
        chosen = [
            ("Worst", names[:ROWS_PER_GROUP]),
            ("Median", names[middle : middle + ROWS_PER_GROUP]),
            ("Best", names[-ROWS_PER_GROUP:]),
        ]
    shown = [pairs[name] for _, group in chosen for name in group]
    with_lq, with_ref = any(pair.lq for pair in shown), any(pair.refs for pair in shown)
    columns = ["LQ"] * with_lq + ["Reference"] * with_ref + [*result.runs, "GT"]
    groups = [
        (title, [gallery_row(result, figure, pairs[name], with_lq, with_ref) for name in group])
        for title, group in chosen
    ]
    return Gallery(f"{figure.label} of run {run}", columns, groups)


def gallery_row(
    result: EvaluationResult, figure: Figure, pair: EvaluationPair, with_lq: bool, with_ref: bool
) -> GalleryRow:
    """The pictures of one face, each run with its value below."""
    thumbnails = []
    if with_lq:
        thumbnails.append(thumbnail(pair.lq, "", "LQ"))
    if with_ref:
        refs = next(iter(pair.refs.values()), ())
        more = f"+ {len(refs) - 1} more" if len(refs) > 1 else ""
        thumbnails.append(thumbnail(refs[0] if refs else None, more, "reference"))
    for run in result.runs:
        caption = decimal(result.values[run][figure.key][pair.name], figure.digits)
        thumbnails.append(thumbnail(pair.restored.get(run), caption, run))
    thumbnails.append(thumbnail(pair.gt, "", "ground truth"))
    return GalleryRow(f"{pair.name} · {pair.identity}" if pair.identity else pair.name, thumbnails)


def thumbnail(path: Path | None, caption: str, title: str) -> Thumbnail:
    """The picture as a data URI; an empty one where it cannot be read."""
    if path is None:
        return Thumbnail("", caption, f"{title}: none")
    try:
        image = imread(path)
    except ImageFileError as error:
        return Thumbnail("", caption, str(error))
    side = max(image.shape[:2])
    if side > THUMBNAIL_SIDE:
        scale = THUMBNAIL_SIDE / side
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    lossless = max(image.shape[:2]) <= LOSSLESS_SIDE
    suffix, kind = (".png", "png") if lossless else (".jpg", "jpeg")
    _, encoded = cv2.imencode(suffix, image, [] if lossless else [cv2.IMWRITE_JPEG_QUALITY, THUMBNAIL_QUALITY])
    data = base64.b64encode(encoded.tobytes()).decode("ascii")
    return Thumbnail(f"data:image/{kind};base64,{data}", caption, f"{title}: {path.name}")
