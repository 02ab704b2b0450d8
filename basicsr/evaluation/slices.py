"""Slices of the pictures by what a table says of them: pose, accessories, group, strength of the degradation.

Shapes: N images; K columns (runs times figures).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from basicsr.evaluation.results import EvaluationResult, Figure
from basicsr.evaluation.statistics import Summary, summarize_columns
from basicsr.utils.errors import UserError
from basicsr.utils.seed import rng_for

MAX_VALUES = 12  # a text column with more of them is a name, not a group
FEW_NUMBERS = 6  # a column with at most so many different numbers is a class (0 and 1), not a measurement
ANGLES = {"yaw", "pitch", "roll"}  # degrees; left and right are one
ANGLE_EDGES = (15.0, 30.0, 60.0)
NUM_PARTS = 3  # of any other measurement: thirds
SLICED_KINDS = ("pixel", "perceptual", "ids", "ids_gallery", "miss")


@dataclass(frozen=True)
class SliceRow:
    """One value of a column, with the figures of every run on its pictures."""

    value: str
    names: list[str]
    num_people: int
    summaries: Mapping[tuple[str, str], Summary]  # run, figure key


@dataclass(frozen=True)
class Slice:
    """One column of the table."""

    column: str
    rows: list[SliceRow]


def sliced_figures(result: EvaluationResult) -> list[Figure]:
    """The figures that slices show."""
    return [figure for figure in result.figures if figure.kind in SLICED_KINDS and result.common_names(figure.key)]


def make_slices(result: EvaluationResult, columns: Sequence[str] | None = None) -> list[Slice]:
    """The slices of a result.

    Args:
        columns: which of the pictures' attributes; None: all that sort them into groups.
    Raises:
        UserError: no picture has such an attribute.
    """
    known = list(dict.fromkeys(key for pair in result.pairs for key in pair.attributes))
    for column in columns or ():
        if column not in known:
            raise UserError(f"slice '{column}': no picture has it; there are: {', '.join(known) or 'none'}")
    slices = []
    for column, groups in ({c: group_by(result, c) for c in columns} if columns else default_groups(result)).items():
        rows = [slice_row(result, value, names) for value, names in groups.items()]
        slices.append(Slice(column, [row for row in rows if row.summaries]))
    return slices


def default_groups(result: EvaluationResult) -> dict[str, dict[str, list[str]]]:
    """Column -> value -> names of the pairs, for all attributes that sort pictures into groups."""
    columns = dict.fromkeys(key for pair in result.pairs for key in pair.attributes)
    groups = {column: group_by(result, column) for column in columns}
    return {column: found for column, found in groups.items() if 1 < len(found) <= MAX_VALUES}


def group_by(result: EvaluationResult, column: str) -> dict[str, list[str]]:
    """Names of the pairs by value of a column, in order; numbers are put into ranges."""
    cells = {pair.name: pair.attributes[column] for pair in result.pairs if column in pair.attributes}
    numbers = {name: number for name, cell in cells.items() if (number := as_number(cell)) is not None}
    groups: dict[str, list[str]] = {}
    if len(numbers) == len(cells) and len(set(numbers.values())) > FEW_NUMBERS:
        values = np.array(list(numbers.values()))
        is_angle = column.lower() in ANGLES
        edges = ANGLE_EDGES if is_angle else tuple(np.quantile(values, [i / NUM_PARTS for i in range(1, NUM_PARTS)]))
        labels = range_labels(edges, "°" if is_angle else "")
        for name, number in numbers.items():
            place = int(np.searchsorted(edges, abs(number) if is_angle else number, side="right"))
            groups.setdefault(labels[place], []).append(name)
        return {label: groups[label] for label in labels if label in groups}
    for name, cell in cells.items():
        groups.setdefault(cell, []).append(name)
    return dict(sorted(groups.items()))


def as_number(cell: str) -> float | None:
    """A finite number, or None."""
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def range_labels(edges: Sequence[float], unit: str) -> list[str]:
    """`below 15°`, `15 to 30°`, ..., `60° and more`."""
    middle = [f"{low:g} to {high:g}{unit}" for low, high in itertools.pairwise(edges)]
    return [f"below {edges[0]:g}{unit}", *middle, f"{edges[-1]:g}{unit} and more"]


def slice_row(result: EvaluationResult, value: str, names: Sequence[str]) -> SliceRow:
    """The figures on some of the pictures, those that every run has."""
    inside = set(names)
    groups: dict[tuple[str, ...], list[str]] = {}
    for figure in sliced_figures(result):
        common = tuple(name for name in result.common_names(figure.key) if name in inside)
        groups.setdefault(common, []).append(figure.key)
    table: dict[tuple[str, str], Summary] = {}
    num_people = 0
    for common, keys in groups.items():
        if not common:
            continue
        cells = [(run, key) for key in keys for run in result.runs]
        columns = np.array([[result.values[run][key][name] for name in common] for run, key in cells]).T
        clusters = result.clusters(common)
        num_people = max(num_people, int(clusters.max()) + 1)
        found = summarize_columns(columns, clusters, rng_for(result.seed), result.num_resamples)
        table.update(zip(cells, found, strict=True))
    return SliceRow(value, list(names), num_people, table)
