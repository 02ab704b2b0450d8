"""The gallery of the report: worst, median and best faces, every run side by side, as data URIs.

Shapes: H, W pixels.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from basicsr.data.contact_sheet import Group, Tile, write_contact_sheet
from basicsr.evaluation.cells import decimal
from basicsr.evaluation.results import EvaluationPair, EvaluationResult, Figure
from basicsr.evaluation.slices import Slice
from basicsr.utils.errors import ImageFileError
from basicsr.utils.img_util import imread

THUMBNAIL_SIDE = 192  # px; smaller pictures are kept as they are
LOSSLESS_SIDE = 128  # px; up to it thumbnails are PNG: JPEG would blur what is judged
THUMBNAIL_QUALITY = 90
ROWS_PER_GROUP = 4
ROWS_PER_SLICE = 2
GRID_TILE = 128  # px


@dataclass(frozen=True)
class Thumbnail:
    """One picture of the gallery; `source` is a data URI, empty when the picture cannot be shown."""

    source: str
    caption: str
    title: str
    path: Path | None = None


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


def ranking_figure(result: EvaluationResult) -> Figure | None:
    """What pictures are sorted by: identity if it was judged, else perceptual distance, else PSNR."""
    for kind in ("ids", "ids_gallery", "perceptual", "pixel", "ids_lq", "quality"):
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
    if len(names) <= 3 * ROWS_PER_GROUP:
        chosen: list[tuple[str, Sequence[str]]] = [("From worst to best", names)]
    else:
        middle = (len(names) - ROWS_PER_GROUP) // 2
        chosen = [
            ("Worst", names[:ROWS_PER_GROUP]),
            ("Median", names[middle : middle + ROWS_PER_GROUP]),
            ("Best", names[-ROWS_PER_GROUP:]),
        ]
    return rows_of(result, figure, f"{figure.label} of run {run}", chosen)


def slice_gallery(result: EvaluationResult, slices: Sequence[Slice]) -> Gallery | None:
    """For each value of each slice the pictures in the middle of its ranking, every run side by side."""
    figure = ranking_figure(result)
    if figure is None:
        return None
    run = result.best_run(figure) or result.runs[0]
    common = set(result.common_names(figure.key))
    chosen: list[tuple[str, Sequence[str]]] = []
    for one in slices:
        for row in one.rows:
            names = [name for name in row.names if name in common]
            names.sort(key=lambda name: result.values[run][figure.key][name])
            start = max(0, (len(names) - ROWS_PER_SLICE) // 2)
            if names:
                chosen.append((f"{one.column}: {row.value}", names[start : start + ROWS_PER_SLICE]))
    return rows_of(result, figure, f"{figure.label} of run {run}", chosen) if chosen else None


def write_grids(shown: Gallery, folder: Path) -> list[Path]:
    """The gallery of slices as pictures, grid_<column>.png: a line for each face, a tile for each column of it.

    Raises:
        ImageFileError: one cannot be written.
    """
    by_column: dict[str, list[Group]] = {}
    for title, rows in shown.groups:
        for row in rows:
            tiles = [
                Tile(thumbnail.path or Path(), f"{label} {thumbnail.caption}".strip())
                for label, thumbnail in zip(shown.columns, row.thumbnails, strict=True)
            ]
            by_column.setdefault(title.partition(": ")[0], []).append(Group(f"{title} · {row.name}", tiles))
    paths = []
    for column, groups in by_column.items():
        paths.append(folder / f"grid_{re.sub(r'[^0-9A-Za-z]+', '_', column)}.png")
        write_contact_sheet(paths[-1], f"{column}: the middle of each slice by {shown.order}", groups, tile=GRID_TILE)
    return paths


def rows_of(
    result: EvaluationResult, figure: Figure, order: str, chosen: Sequence[tuple[str, Sequence[str]]]
) -> Gallery:
    """The named pictures, group by group."""
    pairs = {pair.name: pair for pair in result.pairs}
    shown = [pairs[name] for _, group in chosen for name in group]
    with_lq, with_gt = any(pair.lq for pair in shown), any(pair.gt for pair in shown)
    references = reference_columns(result.runs, shown)
    columns = ["LQ"] * with_lq + [*references] + [*result.runs] + ["GT"] * with_gt
    groups = [
        (title, [gallery_row(result, figure, pairs[name], with_lq, references, with_gt) for name in group])
        for title, group in chosen
    ]
    return Gallery(order, columns, groups)


def reference_columns(runs: Sequence[str], shown: Sequence[EvaluationPair]) -> dict[str, str]:
    """Heading -> a run that was given these references; the ground truth as reference has its own column already."""
    found: dict[tuple[tuple[Path, ...], ...], str] = {}
    for run in runs:
        given = tuple(pair.refs.get(run, ()) for pair in shown)
        if any(given) and given != tuple((pair.gt,) for pair in shown):
            found.setdefault(given, run)
    first, *others = [*found.values(), ""]
    return {"Reference": first} | {f"Reference of {run}": run for run in others if run} if first else {}


def gallery_row(
    result: EvaluationResult,
    figure: Figure,
    pair: EvaluationPair,
    with_lq: bool,
    references: Mapping[str, str],
    with_gt: bool,
) -> GalleryRow:
    """The pictures of one face, each run with its value below."""
    thumbnails = []
    if with_lq:
        thumbnails.append(thumbnail(pair.lq, "", "LQ"))
    for heading, run in references.items():
        refs = pair.refs.get(run, ())
        more = f"+ {len(refs) - 1} more" if len(refs) > 1 else ""
        thumbnails.append(thumbnail(refs[0] if refs else None, more, heading.lower()))
    for run in result.runs:
        caption = decimal(result.values[run][figure.key][pair.name], figure.digits)
        thumbnails.append(thumbnail(pair.restored.get(run), caption, run))
    if with_gt:
        thumbnails.append(thumbnail(pair.gt, "", "ground truth"))
    return GalleryRow(f"{pair.name} · {pair.identity}" if pair.identity else pair.name, thumbnails)


def thumbnail(path: Path | None, caption: str, title: str) -> Thumbnail:
    """The picture as a data URI; an empty one where it cannot be read."""
    if path is None:
        return Thumbnail("", caption, f"{title}: none")
    try:
        image = imread(path)
    except ImageFileError as error:
        return Thumbnail("", caption, str(error), path)
    side = max(image.shape[:2])
    if side > THUMBNAIL_SIDE:
        scale = THUMBNAIL_SIDE / side
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    lossless = max(image.shape[:2]) <= LOSSLESS_SIDE
    suffix, kind = (".png", "png") if lossless else (".jpg", "jpeg")
    _, encoded = cv2.imencode(suffix, image, [] if lossless else [cv2.IMWRITE_JPEG_QUALITY, THUMBNAIL_QUALITY])
    data = base64.b64encode(encoded.tobytes()).decode("ascii")
    return Thumbnail(f"data:image/{kind};base64,{data}", caption, f"{title}: {path.name}", path)
