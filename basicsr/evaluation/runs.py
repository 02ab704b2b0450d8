"""Values of runs, by figure and picture: out of an evaluation, or read back from the files that one wrote.

A run is anything that restored the same pictures: an ablation arm, a setting of w, another method.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from basicsr.evaluation.results import EvaluationResult, Figure
from basicsr.utils.csv_util import read_rows
from basicsr.utils.errors import UserError

PER_IMAGE = "per_image.csv"
METRICS = "metrics.json"
NOT_FIGURES = ("name", "identity", "run", "failure")  # columns of per_image.csv; slices start with SLICE_PREFIX
SLICE_PREFIX = "slice:"


@dataclass(frozen=True)
class RunValues:
    """One run. `values`: figure key -> picture -> value; `identity`: picture -> person."""

    label: str
    values: Mapping[str, Mapping[str, float]]
    identity: Mapping[str, str | None]
    figures: Mapping[str, Figure]


def split_label(label: str) -> tuple[str, str]:
    """Family and last word of a run's name, in lower case: "D wrong" and "D_wrong" are the run "wrong" of "d"."""
    family, _, word = label.lower().replace("_", " ").rpartition(" ")
    return family, word


def runs_of(result: EvaluationResult) -> list[RunValues]:
    """The runs of an evaluation."""
    figures = {figure.key: figure for figure in result.figures}
    return [RunValues(run, result.values[run], result.identity, figures) for run in result.runs]


def read_runs(path: Path, labels: Mapping[str, str] | None = None) -> list[RunValues]:
    """The runs that an evaluation has written.

    Args:
        path: per_image.csv, or its folder; metrics.json must lie beside it.
        labels: new name by name of the run; the others are left out.
    Raises:
        UserError: a file is missing or broken, a value is no number, or a run of `labels` is not in it.
    """
    table = path / PER_IMAGE if path.is_dir() else path
    figures = read_figures(table.with_name(METRICS))
    rows = read_rows(table, required=("name", "identity", "run"))
    columns = [column for column in rows[0][1] if column in figures]
    values: dict[str, dict[str, dict[str, float]]] = {}
    identity: dict[str, str | None] = {}
    for line, row in rows:
        if not row["run"]:  # a picture without a partner: it has a reason and no values
            continue
        identity[row["name"]] = row["identity"] or None
        by_key = values.setdefault(row["run"], {column: {} for column in columns})
        for column in columns:
            if row[column]:
                by_key[column][row["name"]] = to_number(row[column], f"{table}:{line}: {column}")
    chosen = {run: run for run in values} if labels is None else dict(labels)
    for run in chosen:
        if run not in values:
            raise UserError(f"{table}: no run '{run}'; it has: {', '.join(values)}")
    return [RunValues(label, values[run], identity, figures) for run, label in chosen.items()]


def to_number(text: str, where: str) -> float:
    """A cell as a number.

    Raises:
        UserError: it is none, or NaN.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise UserError(f"{where}: found '{text}', expected a number or an empty cell")
    return value


def read_figures(path: Path) -> dict[str, Figure]:
    """The figures of a metrics.json by key.

    Raises:
        UserError: missing, or not written by evaluate.py.
    """
    way_out = "Run scripts/evaluate.py again into this folder"
    try:
        entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["figures"]
        fields = ("key", "label", "better", "protocol", "digits", "kind", "judge", "weights_file", "weights_sha256")
        return {entry["key"]: Figure(**{name: entry[name] for name in fields}) for entry in entries}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read as the figures of an evaluation ({error}). {way_out}") from error


def mean_of_seeds(runs: Sequence[RunValues], label: str) -> RunValues:
    """One run whose values are the means over trainings with different seeds, on the pictures that all have."""
    first = runs[0]
    values = {}
    for key in first.values:
        names = common_names(runs, key)
        values[key] = {name: math.fsum(run.values[key][name] for run in runs) / len(runs) for name in names}
    return replace(first, label=label, values=values)


def common_names(runs: Iterable[RunValues], key: str) -> list[str]:
    """Pictures for which every run has the figure, in the order of the first."""
    first, *others = runs
    tables = [run.values.get(key, {}) for run in others]
    return [name for name in first.values.get(key, {}) if all(name in table for table in tables)]


def comparable_figures(runs: Sequence[RunValues]) -> list[Figure]:
    """Figures that every run has, measured alike.

    Raises:
        UserError: two runs were measured under different conditions, so their difference would mean nothing.
    """
    first, *others = runs
    figures = []
    for key, figure in first.figures.items():
        if not all(key in run.figures for run in others):
            continue
        for run in others:
            other = run.figures[key]
            if (other.protocol, other.weights_sha256) != (figure.protocol, figure.weights_sha256):
                raise UserError(
                    f"{figure.label}: '{run.label}' was judged under other conditions than '{first.label}' "
                    f"({other.protocol}; {figure.protocol}). Evaluate both with the same flags"
                )
        figures.append(figure)
    return figures
