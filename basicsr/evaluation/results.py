"""What an evaluation holds: figures with their conditions, values per image and run, and everything that went wrong.

Shapes: N images that every run has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from basicsr.evaluation.statistics import (
    MIN_CLUSTERS,
    Floats,
    Ints,
    Summary,
    bootstrap_columns,
    bootstrap_interval,
    cluster_numbers,
    summarize_columns,
)
from basicsr.utils.seed import rng_for

PROTOCOL = "idcf-eval/1"  # docs/evaluation.md; a new number whenever a value would change for the same files

Kind = Literal[
    "pixel", "color", "perceptual", "landmarks", "quality", "set",
    "ids", "ids_ref", "cos_ref_gt", "ids_lq", "cos_lq_gt", "ids_gallery", "cos_lq_gallery", "cos_ref_gallery",
    "degrees", "miss", "ids_trained", "gap",
]  # fmt: skip


@dataclass(frozen=True)
class EvaluationPair:
    """One ground truth and the pictures that belong to it."""

    name: str  # path of the ground truth (in a set without: of the LQ) below its folder, without suffix
    gt: Path | None  # None: the set has no ground truth
    restored: dict[str, Path]  # by run; a run that lacks the picture is not in it
    refs: dict[str, tuple[Path, ...]]  # by run: the references that the run was given, or the ones it is compared with
    lq: Path | None
    identity: str | None
    gallery: tuple[Path, ...] = ()  # photos of the same person that no run was given
    mask: Path | None = None  # of the face
    shared_refs: tuple[Path, ...] = ()  # references that hold for all runs: photos of the same person
    attributes: Mapping[str, str] = field(default_factory=dict)  # yaw, eyeglasses, degradation, ...: for slices


@dataclass(frozen=True)
class Failure:
    """One picture that could not be judged, and why."""

    name: str
    run: str | None  # None: concerns every run
    reason: str

    def __str__(self) -> str:
        return f"{self.name} [{self.run}]: {self.reason}" if self.run else f"{self.name}: {self.reason}"


@dataclass(frozen=True)
class Figure:
    """One kind of value, with all that must be equal for two of its values to be comparable."""

    key: str  # column of per_image.csv
    label: str  # as tables print it
    better: Literal["higher", "lower", "neither"]
    protocol: str
    digits: int  # after the point, in the report
    kind: Kind
    judge: str = ""  # file stem of the recogniser; the identity figures of one judge share it
    weights_file: str | None = None
    weights_sha256: str | None = None
    value_range: str = ""  # with the unit


@dataclass(frozen=True)
class Unavailable:
    """A figure without a number: what file it needs, and where."""

    label: str
    reason: str


@dataclass(frozen=True)
class Calibration:
    """What a judge's cosines mean: those of one person and of two, and the threshold between them."""

    judge: str
    source: str  # which pairs
    num_people: int | None  # None: the pairs came from a table
    num_genuine: int
    num_impostor: int
    genuine_mean: float
    genuine_sd: float
    impostor_mean: float
    impostor_sd: float
    far: float
    threshold: float  # accepted: a cosine above it
    threshold_low: float | None  # 95 % over people; None: too few of them, or pairs of a table
    threshold_high: float | None
    tar: float  # share of the genuine pairs above it


@dataclass(frozen=True)
class GroupCalibration:
    """The same from the photos of one slice alone: a judge is not equally good for all groups of people."""

    column: str
    value: str
    calibration: Calibration | str  # or why there is none


@dataclass(frozen=True)
class EvaluationResult:
    """Everything that the tables and the report are made from."""

    title: str
    note: str
    runs: list[str]
    pairs: list[EvaluationPair]
    figures: list[Figure]
    values: dict[str, dict[str, dict[str, float]]]  # run -> figure key -> pair name -> value
    unavailable: list[Unavailable]
    failures: list[Failure]
    warnings: list[str]
    labels: list[str] = field(default_factory=list)  # first line of the report: what must not be overlooked
    seed: int = 0
    num_resamples: int = 2000
    set_figures: list[Figure] = field(default_factory=list)  # figures of a whole set, such as FID
    set_values: dict[str, dict[str, float]] = field(default_factory=dict)  # run -> figure key -> value
    calibrations: list[Calibration] = field(default_factory=list)
    group_calibrations: list[GroupCalibration] = field(default_factory=list)
    speed: dict[str, float] = field(default_factory=dict)  # images per second, by what was computed
    protocol: str = PROTOCOL

    def common_names(self, key: str) -> list[str]:
        """Pairs for which every run has the figure, in order: runs are compared on the same images or not at all."""
        return [pair.name for pair in self.pairs if all(pair.name in self.values[run][key] for run in self.runs)]

    def values_of(self, run: str, key: str) -> Floats:
        """(N,) values of a run, in the order of `common_names`."""
        return np.array([self.values[run][key][name] for name in self.common_names(key)])

    @cached_property
    def summaries(self) -> dict[tuple[str, str], Summary]:
        """Summary by (run, figure key); absent where no image has the figure in all runs."""
        table: dict[tuple[str, str], Summary] = {}
        groups: dict[tuple[str, ...], list[str]] = {}  # pictures -> keys of the figures that exactly these have
        for figure in self.figures:
            groups.setdefault(tuple(self.common_names(figure.key)), []).append(figure.key)
        for names, keys in groups.items():
            if not names:
                continue
            cells = [(run, key) for key in keys for run in self.runs]
            columns = np.array([[self.values[run][key][name] for name in names] for run, key in cells]).T  # (N, K)
            # the same draws for every run, so that intervals of one figure can be compared
            found = summarize_columns(columns, self.clusters(names), rng_for(self.seed), self.num_resamples)
            table.update(zip(cells, found, strict=True))
        return table

    def clusters(self, names: Sequence[str]) -> Ints:
        """Numbers of the people on the named pictures."""
        return cluster_numbers([self.identity[name] for name in names])

    @cached_property
    def identity(self) -> dict[str, str | None]:
        """Person by name of the picture."""
        return {pair.name: pair.identity for pair in self.pairs}

    @property
    def has_identities(self) -> bool:
        """Whether intervals are clustered by identity."""
        return any(pair.identity is not None for pair in self.pairs)

    def best_run(self, figure: Figure) -> str | None:
        """The run with the best mean; None when there is nothing to choose."""
        if figure.better == "neither" or len(self.runs) < 2:
            return None
        means = {run: self.summaries[run, figure.key].mean for run in self.runs if (run, figure.key) in self.summaries}
        if not means:
            return None
        return (max if figure.better == "higher" else min)(means, key=lambda run: means[run])

    def best_runs(self, figure: Figure) -> frozenset[str]:
        """The run with the best mean, and those that are not shown to differ from it (paired, 95 %, over people).

        Empty where no run is shown to differ from the best: there is nothing to rank.
        """
        best = self.best_run(figure)
        names = self.common_names(figure.key)
        clusters = self.clusters(names)
        if best is None or int(clusters.max()) + 1 < MIN_CLUSTERS:
            return frozenset()
        columns = np.array([self.values_of(run, figure.key) for run in self.runs]).T  # (N, runs)
        if not np.isfinite(columns).all():
            return frozenset()
        columns -= columns[:, [self.runs.index(best)]]
        draws = bootstrap_columns(columns, clusters, rng_for(self.seed), self.num_resamples)
        low, high = bootstrap_interval(draws, int(clusters.max()) + 1)
        level = [run for run, a, b in zip(self.runs, low, high, strict=True) if a <= 0 <= b]
        return frozenset(level) if len(level) < len(self.runs) else frozenset()

    def num_faulty(self, run: str) -> int:
        """Pictures of a run with a failure of any kind."""
        return len({failure.name for failure in self.failures if failure.run in (None, run)})

    def figures_of_kind(self, kind: str) -> Sequence[Figure]:
        """Figures of one kind, in order."""
        return [figure for figure in self.figures if figure.kind == kind]
