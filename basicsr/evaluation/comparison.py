"""Paired comparison of runs: differences on the same pictures, intervals over people, Holm over the family.

Photos of one person are not independent, so the bootstrap draws people. The p-value is that of the bootstrap: the level
at which its interval, widened for the number of people, begins to cover zero (statistics.py). Holm 1979 keeps the
chance of any false claim in a family of differences below 5 %.

Shapes: N images; R resamples; K differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from basicsr.evaluation.results import Figure
from basicsr.evaluation.runs import RunValues, common_names, comparable_figures
from basicsr.evaluation.statistics import (
    MIN_CLUSTERS,
    Floats,
    bootstrap_columns,
    bootstrap_interval,
    bootstrap_p,
    cluster_numbers,
    detectable_difference,
    standard_error,
)
from basicsr.utils.errors import UserError
from basicsr.utils.seed import rng_for

NUM_RESAMPLES = 10_000
LEVEL = 0.95
POWER = 0.8
# kinds of figures that are compared: what is natural for a person, or a step on the way, is no merit of a run
COMPARED_KINDS = ("pixel", "color", "perceptual", "landmarks", "quality", "ids", "ids_gallery", "degrees", "miss")

ASKED_KINDS = ("ids", "perceptual")  # of questions: identity by every judge, LPIPS of the whole picture by every net

Verdict = Literal["better", "worse", "no difference shown", "too few people"]


class Question(NamedTuple):
    """A difference between two runs and what it would show."""

    text: str
    run: str
    minus: str


@dataclass(frozen=True)
class Contrast:
    """A difference: figure `key` of `run` minus figure `minus_key` of `minus_run`, on pictures that have both."""

    title: str
    run: str
    key: str
    minus_run: str
    minus_key: str
    figure: Figure  # direction and digits


@dataclass(frozen=True)
class Difference:
    """A contrast with its numbers. `None` where it is undefined: fewer than MIN_CLUSTERS people, or infinite values."""

    contrast: Contrast
    n: int
    num_people: int
    mean: float
    ci_low: float | None
    ci_high: float | None
    p: float | None
    p_holm: float | None
    error: float | None  # standard error of the mean
    detectable: float | None  # smallest true difference that is found with 80 % power, at Holm's first step

    @property
    def verdict(self) -> Verdict:
        """What may be said of it. No ranking is claimed where Holm's p is 5 % or more, or the interval covers 0."""
        if self.p_holm is None or self.ci_low is None or self.ci_high is None:
            return "too few people"
        if self.p_holm >= 1 - LEVEL or self.ci_low <= 0 <= self.ci_high:
            return "no difference shown"
        rises = self.contrast.figure.better != "lower"
        return "better" if (self.mean > 0) == rises else "worse"


def compare_runs(
    runs: Sequence[RunValues],
    baseline: str,
    keys: Sequence[str] | None = None,
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> list[Difference]:
    """Every run against the baseline in every figure: one family.

    Args:
        baseline: label of the run that the others are compared with.
        keys: figures to compare; None: all that say how good a run is. A smaller family is a sharper one: name the
            figures that the claim is about before looking.
    Raises:
        UserError: no such run or figure, two runs of one name, different conditions, or no common picture.
    """
    labels = [run.label for run in runs]
    if baseline not in labels or len(set(labels)) < len(labels):
        raise UserError(f"baseline '{baseline}': expected one of {', '.join(labels)}, each name once")
    figures = [figure for figure in comparable_figures(runs) if figure.kind in COMPARED_KINDS]
    unknown = set(keys or ()) - {figure.key for figure in figures}
    if unknown:
        known = ", ".join(figure.key for figure in figures)
        raise UserError(f"figure {sorted(unknown)[0]}: cannot be compared; there are: {known}")
    contrasts, names = [], {}
    for figure in figures:
        if keys is not None and figure.key not in keys:
            continue
        names[figure.key] = common_names(runs, figure.key)
        for label in labels:
            if label != baseline and names[figure.key]:
                title = f"{label} − {baseline}"
                contrasts.append(Contrast(title, label, figure.key, baseline, figure.key, figure))
    if not contrasts:
        raise UserError(f"{' and '.join(labels)}: no picture has a common figure in all of them")
    chosen = [names[contrast.key] for contrast in contrasts]
    return estimate(runs, contrasts, chosen, seed=seed, num_resamples=num_resamples)


def ask_runs(
    runs: Sequence[RunValues],
    questions: Sequence[Question],
    keys: Sequence[str] | None = None,
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> list[tuple[Question, Difference]]:
    """The questions for which there are runs and common pictures, in every figure: one family.

    Args:
        keys: figures that are asked about; None: IDS and LPIPS, of the whole picture, since more figures that say
            nearly the same would blunt the tests.
    Raises:
        UserError: no such figure, or different conditions.
    """
    by_label = {run.label: run for run in runs}
    known = {key for run in runs for key, figure in run.figures.items() if figure.kind in COMPARED_KINDS}
    if unknown := sorted(set(keys or ()) - known):
        raise UserError(f"figure {unknown[0]}: cannot be compared; there are: {', '.join(sorted(known))}")
    asked: list[tuple[Question, Contrast]] = []
    for question in questions:
        if question.run not in by_label or question.minus not in by_label:
            continue
        for figure in comparable_figures([by_label[question.run], by_label[question.minus]]):
            if not (is_asked(figure) if keys is None else figure.key in keys):
                continue
            contrast = Contrast(question.text, question.run, figure.key, question.minus, figure.key, figure)
            if both_names(by_label, contrast):
                asked.append((question, contrast))
    differences = estimate(runs, [contrast for _, contrast in asked], seed=seed, num_resamples=num_resamples)
    return [(question, difference) for (question, _), difference in zip(asked, differences, strict=True)]


def is_asked(figure: Figure) -> bool:
    """Whether questions are about this figure, where none is named."""
    return figure.kind in ASKED_KINDS and not figure.key.endswith("_face")


def estimate(
    runs: Sequence[RunValues],
    contrasts: Sequence[Contrast],
    names: Sequence[Sequence[str]] | None = None,
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> list[Difference]:
    """The numbers of a family of contrasts, in order; one without a common picture is left out.

    Args:
        names: pictures of each contrast; None: those that have both values.
    """
    by_label = {run.label: run for run in runs}
    groups: dict[tuple[str, ...], list[int]] = {}  # contrasts on the same pictures share one product of draws
    for i, contrast in enumerate(contrasts):
        found = names[i] if names is not None else both_names(by_label, contrast)
        groups.setdefault(tuple(found), []).append(i)
    numbers: dict[int, Difference] = {}
    for common, members in groups.items():
        if not common:
            continue
        columns = np.stack([difference_column(by_label, contrasts[i], common) for i in members], axis=1)  # (N, K)
        identity = by_label[contrasts[members[0]].run].identity
        clusters = cluster_numbers([identity[name] for name in common])
        num_people = int(clusters.max()) + 1
        finite = np.isfinite(columns).all(axis=0)
        draws = np.full((num_resamples, len(members)), np.nan)
        if num_people >= MIN_CLUSTERS and finite.any():
            draws[:, finite] = bootstrap_columns(columns[:, finite], clusters, rng_for(seed), num_resamples)
        for i, column, drawn in zip(members, columns.T, draws.T, strict=True):
            numbers[i] = measured(contrasts[i], column, drawn, num_people)
    ordered = [numbers[i] for i in sorted(numbers)]
    tested = [i for i, difference in enumerate(ordered) if difference.p is not None]
    adjusted = holm([ordered[i].p or 0.0 for i in tested])
    for i, p_holm in zip(tested, adjusted, strict=True):
        level = 1 - (1 - LEVEL) / len(tested)  # a difference that passes this is found whatever the others are
        detectable = detectable_difference(ordered[i].error or 0.0, ordered[i].num_people, level, POWER)
        ordered[i] = replace(ordered[i], p_holm=p_holm, detectable=detectable)
    return ordered


def both_names(by_label: dict[str, RunValues], contrast: Contrast) -> list[str]:
    """Pictures that have both values of a contrast."""
    minus = by_label[contrast.minus_run].values.get(contrast.minus_key, {})
    return [name for name in by_label[contrast.run].values.get(contrast.key, {}) if name in minus]


def difference_column(by_label: dict[str, RunValues], contrast: Contrast, names: Sequence[str]) -> Floats:
    """(N,) differences; two pictures that equal their ground truth (infinite PSNR both) differ by 0."""
    plus = by_label[contrast.run].values[contrast.key]
    minus = by_label[contrast.minus_run].values[contrast.minus_key]
    return np.array([0.0 if plus[name] == minus[name] else plus[name] - minus[name] for name in names])


def measured(contrast: Contrast, column: Floats, drawn: Floats, num_people: int) -> Difference:
    """The numbers of one contrast, before Holm, from its (N,) differences and (R,) bootstrap means."""
    low = high = p = error = None
    if np.isfinite(drawn).all():
        low, high = (float(bound) for bound in bootstrap_interval(drawn, num_people, LEVEL))
        p, error = bootstrap_p(drawn, num_people), standard_error(drawn, num_people)
    return Difference(contrast, len(column), num_people, float(column.mean()), low, high, p, None, error, None)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979): the i-th smallest of m times m - i + 1, never below the one before, at most 1."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
