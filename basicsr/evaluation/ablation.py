"""The tables of an ablation out of the evaluations of its seeds: rows with intervals, and the questions it asks.

A row's value of a picture is the mean over the seeds; intervals are over people, and Holm holds over all questions of
one table (basicsr/evaluation/comparison.py). Such an interval speaks of other people, restored by these very trainings.
What another seed would do it cannot know: two or three trainings are too few for an interval of their own. So the means
of the seeds stand beside it, and nothing is called better or worse where the seeds disagree about the sign.

Shapes: S seeds; N pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from basicsr.evaluation.comparison import Difference, Question, Verdict, ask_runs, difference_column
from basicsr.evaluation.results import Figure
from basicsr.evaluation.runs import RunValues, common_names, mean_of_seeds, read_runs
from basicsr.evaluation.statistics import cluster_numbers, summarize_columns
from basicsr.utils.errors import UserError
from basicsr.utils.seed import rng_for

SHOWN_KINDS = ("pixel", "perceptual", "ids", "ids_ref")
OVERFIT_KIND = "gap"  # between the recogniser that trains and the judge: a table of its own
NUM_RESAMPLES = 10_000

# "C ref" is row C given right references
QUESTIONS = (
    Question("Do image losses have to reach the code prediction?", "A", "A0"),
    Question("Does the identity loss help?", "B", "A"),
    Question("Does the conditioned transformer help?", "C ref", "B"),
    Question("Does IA-CFT help?", "D ref", "C ref"),
    Question("Does the whole help?", "D ref", "A"),
    Question("Does C listen: right against wrong references?", "C ref", "C wrong"),
    Question("Does D listen: right against wrong references?", "D ref", "D wrong"),
    Question("C: does a reference help more than none?", "C ref", "C none"),
    Question("D: does a reference help more than none?", "D ref", "D none"),
    Question("D without any reference against the baseline", "D self", "A"),
    Question("Does guidance help the baseline, without training?", "A+G ref", "A"),
    Question("Does A+G listen: right against wrong references?", "A+G ref", "A+G wrong"),
    Question("Does guidance help the full model?", "D+G ref", "D ref"),
    Question("Does D+G listen: right against wrong references?", "D+G ref", "D+G wrong"),
    Question("Does it help that each place is told its own?", "M ref", "D ref"),
    Question("Does the whole with maps help?", "M ref", "A"),
    Question("Does M listen: right against wrong references?", "M ref", "M wrong"),
    Question("M: does a reference help more than none?", "M ref", "M none"),
    Question("M without any reference against the baseline", "M self", "A"),
    Question("Would a perfect reference give more?", "D oracle", "D ref"),
    Question("The conditioned transformer without the loss", "A+C ref", "A"),
    Question("IA-CFT without loss and tokens", "A+D ref", "A"),
    Question("Several tokens against one", "C ref", "C1 ref"),
    Question("Does C1 listen at all?", "C1 ref", "C1 wrong"),
    Question("Shared keys and values against tokens", "kv_share ref", "C ref"),
    Question("Does kv_share listen?", "kv_share ref", "kv_share wrong"),
    Question("Knowledge of the person, not capacity?", "D ref", "capacity"),
    Question("Could the codebook show more?", "ceiling", "D ref"),
)


@dataclass(frozen=True)
class Cell:
    """One figure of one run: mean over pictures and seeds, its interval over people, scatter of the seeds' means."""

    mean: float
    ci_low: float | None
    ci_high: float | None
    seed_std: float | None  # None with one seed


@dataclass(frozen=True)
class Answer:
    """A question's difference with the mean of each seed (S)."""

    question: Question
    difference: Difference
    by_seed: tuple[float, ...]

    @property
    def num_agreeing(self) -> int:
        """Seeds whose difference has the sign of the mean over all."""
        return sum(value * self.difference.mean > 0 for value in self.by_seed)

    @property
    def verdict(self) -> Verdict | Literal["seeds disagree"]:
        """What may be said: as `Difference.verdict`, and no ranking where a seed has the other sign."""
        found = self.difference.verdict
        ranks = found in ("better", "worse")
        return "seeds disagree" if ranks and self.num_agreeing < len(self.by_seed) else found


@dataclass(frozen=True)
class AblationTable:
    """What one stage's evaluations say."""

    title: str
    num_seeds: int
    num_pictures: int
    num_people: int
    figures: list[Figure]
    cells: dict[str, dict[str, Cell]]  # run -> figure key -> cell
    answers: list[Answer]
    left_out: list[str]  # runs that some seed lacks
    runs: list[RunValues]  # means over the seeds

    def first_figure(self, kind: str) -> Figure | None:
        """The first figure of a kind that some run has: the judge, the LPIPS that is named first."""
        return next((f for f in self.figures if f.kind == kind and any(f.key in c for c in self.cells.values())), None)

    @property
    def columns(self) -> list[Figure]:
        """The figures of the table: those that some run has."""
        having = {key for cells in self.cells.values() for key in cells}
        return [figure for figure in self.figures if figure.kind in SHOWN_KINDS and figure.key in having]

    @property
    def asked(self) -> list[Question]:
        """The questions that have answers."""
        return list(dict.fromkeys(answer.question for answer in self.answers))

    def answers_in(self, key: str) -> list[Answer]:
        """The answers about one figure, in order."""
        return [answer for answer in self.answers if answer.difference.contrast.key == key]


def tabulate(title: str, reports: Sequence[Path], seed: int = 0) -> AblationTable:
    """The table of the runs that all evaluations hold, one evaluation for each seed.

    Raises:
        UserError: an evaluation is missing, they have no run in common, or a figure is there for no common picture.
    """
    per_seed = [{run.label: run for run in read_runs(report)} for report in reports]
    everything = list(dict.fromkeys(label for runs in per_seed for label in runs))
    labels = [label for label in everything if all(label in runs for runs in per_seed)]
    if not labels:
        raise UserError(f"{', '.join(map(str, reports))}: have no run in common")
    merged = [mean_of_seeds([runs[label] for runs in per_seed], label) for label in labels]
    figures = [figure for figure in merged[0].figures.values() if figure.kind in (*SHOWN_KINDS, OVERFIT_KIND)]
    cells: dict[str, dict[str, Cell]] = {label: {} for label in labels}
    pictures: set[str] = set()
    for figure in figures:
        having = [run for run in merged if run.values.get(figure.key)]
        if not having:
            continue
        names = common_names(having, figure.key)
        pictures |= set(names)
        for run, cell in zip(having, _cells(having, per_seed, figure.key, names, seed), strict=True):
            cells[run.label][figure.key] = cell
    if not pictures:
        raise UserError(f"{', '.join(map(str, reports))}: hold none of the figures that an ablation shows")
    return AblationTable(
        title=title,
        num_seeds=len(reports),
        num_pictures=len(pictures),
        num_people=len({merged[0].identity[name] or name for name in pictures}),
        figures=figures,
        cells=cells,
        answers=answer(merged, per_seed, seed),
        left_out=[label for label in everything if label not in labels],
        runs=merged,
    )


def _cells(
    runs: Sequence[RunValues], per_seed: Sequence[Mapping[str, RunValues]], key: str, names: Sequence[str], seed: int
) -> list[Cell]:
    """The cells of one figure, on the pictures that every run has."""
    if not names:
        raise UserError(f"{key}: no picture has it in all runs ({', '.join(run.label for run in runs)})")
    columns = np.array([[run.values[key][name] for name in names] for run in runs]).T  # (N, runs)
    clusters = cluster_numbers([runs[0].identity[name] for name in names])
    found = summarize_columns(columns, clusters, rng_for(seed), NUM_RESAMPLES)
    means = np.array([[_mean(of[run.label], key, names) for of in per_seed] for run in runs])  # (runs, S)
    stds = means.std(axis=1, ddof=1) if len(per_seed) > 1 else [None] * len(runs)
    return [
        Cell(summary.mean, summary.ci_low, summary.ci_high, None if std is None else float(std))
        for summary, std in zip(found, stds, strict=True)
    ]


def _mean(run: RunValues, key: str, names: Sequence[str]) -> float:
    return float(np.mean([run.values[key][name] for name in names]))


def answer(merged: Sequence[RunValues], per_seed: Sequence[Mapping[str, RunValues]], seed: int = 0) -> list[Answer]:
    """The answers to the questions for which there are runs, as one family of tests.

    Args:
        merged: means over the seeds; `per_seed`: run by its label, for each seed.
    """
    by_label = {run.label: run for run in merged}
    answers = []
    for question, difference in ask_runs(merged, QUESTIONS, seed=seed, num_resamples=NUM_RESAMPLES):
        contrast = difference.contrast
        names = common_names([by_label[contrast.run], by_label[contrast.minus_run]], contrast.key)
        means = tuple(float(difference_column(dict(runs), contrast, names).mean()) for runs in per_seed)
        answers.append(Answer(question, difference, means))
    return answers


def to_dict(table: AblationTable) -> dict[str, Any]:
    """For a JSON file; nothing is rounded."""
    answers = [
        {"question": a.question._asdict(), **asdict(a.difference), "by_seed": a.by_seed, "verdict": a.verdict}
        for a in table.answers
    ]
    cells = {run: {key: asdict(cell) for key, cell in of.items()} for run, of in table.cells.items()}
    return {
        "title": table.title, "seeds": table.num_seeds, "pictures": table.num_pictures, "people": table.num_people,
        "figures": [asdict(figure) for figure in table.figures], "runs": cells, "answers": answers,
        "left_out": table.left_out,
    }  # fmt: skip
