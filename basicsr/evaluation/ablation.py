"""The tables of an ablation out of the evaluations of its seeds: rows with intervals, and the questions it asks.

A row's value of a picture is the mean over the seeds; intervals are over people, and Holm holds over all questions of
one table (basicsr/evaluation/comparison.py). Between seeds the rows' means scatter, which is printed beside them.

Shapes: S seeds; N pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from basicsr.evaluation.ablation_options import ROWS
from basicsr.evaluation.charts import COLORS, NATURAL_COLOR, canvas
from basicsr.evaluation.comparison import Contrast, Difference, estimate
from basicsr.evaluation.results import Figure
from basicsr.evaluation.runs import RunValues, common_names, mean_of_seeds, read_runs
from basicsr.evaluation.statistics import Floats, cluster_numbers, summarize_columns
from basicsr.utils.errors import UserError
from basicsr.utils.seed import rng_for

SHOWN_KINDS = ("pixel", "perceptual", "ids", "ids_ref")
VERDICT_COLORS = {"better": COLORS[2], "worse": COLORS[1]}
ASKED_KINDS = ("ids", "perceptual")
NUM_RESAMPLES = 10_000


class Question(NamedTuple):
    """A difference between two runs and what it would show; "C ref" is row C given right references."""

    text: str
    run: str
    minus: str


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
class AblationTable:
    """What one stage's evaluations say."""

    title: str
    num_seeds: int
    num_pictures: int
    num_people: int
    figures: list[Figure]
    cells: dict[str, dict[str, Cell]]  # run -> figure key -> cell
    answers: list[tuple[Question, Difference]]


def tabulate(title: str, reports: Sequence[Path], seed: int = 0) -> AblationTable:
    """The table of evaluations that hold the same runs, one for each seed.

    Raises:
        UserError: an evaluation is missing or lacks a run, or no picture is common to all.
    """
    per_seed = [{run.label: run for run in read_runs(report)} for report in reports]
    labels = list(per_seed[0])
    for report, runs in zip(reports, per_seed, strict=True):
        if list(runs) != labels:
            raise UserError(f"{report}: holds the runs {', '.join(runs)}; {reports[0]} holds {', '.join(labels)}")
    merged = [mean_of_seeds([runs[label] for runs in per_seed], label) for label in labels]
    figures = [figure for figure in merged[0].figures.values() if figure.kind in SHOWN_KINDS]
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
    people = {merged[0].identity[name] or name for name in pictures}
    return AblationTable(title, len(reports), len(pictures), len(people), figures, cells, ask(merged, seed))


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


def ask(runs: Sequence[RunValues], seed: int = 0) -> list[tuple[Question, Difference]]:
    """The answers to the questions for which there are runs, as one family of tests."""
    by_label = {run.label: run for run in runs}
    asked: list[tuple[Question, Contrast]] = []
    for question in QUESTIONS:
        if question.run not in by_label or question.minus not in by_label:
            continue
        for key, figure in by_label[question.run].figures.items():
            have_both = by_label[question.run].values.get(key) and by_label[question.minus].values.get(key)
            if figure.kind in ASKED_KINDS and have_both:
                asked.append((question, Contrast(question.text, question.run, key, question.minus, key, figure)))
    differences = estimate(runs, [contrast for _, contrast in asked], seed=seed, num_resamples=NUM_RESAMPLES)
    by_contrast = {id(difference.contrast): difference for difference in differences}
    return [(q, by_contrast[id(contrast)]) for q, contrast in asked if id(contrast) in by_contrast]


def to_markdown(table: AblationTable) -> str:
    """The table and the answers."""
    shown = [figure for figure in table.figures if any(figure.key in cells for cells in table.cells.values())]
    arrows = {"higher": "↑", "lower": "↓", "neither": ""}
    lines = [f"## {table.title}", ""]
    lines += [
        f"{table.num_pictures} pictures of {table.num_people} held-out people, {table.num_seeds} "
        f"{'seed' if table.num_seeds == 1 else 'seeds'}. Mean over pictures and seeds, [95 % over people], "
        "± standard deviation between seeds.",
        "",
        "| | " + " | ".join(f"{figure.label} {arrows[figure.better]}".strip() for figure in shown) + " |",
        "|---|" + "---|" * len(shown),
    ]
    for label, cells in table.cells.items():
        says = ROWS[label].says if label in ROWS else ""
        name = f"{label} ({says})" if says else label
        lines.append(f"| {name} | " + " | ".join(_cell(cells.get(f.key), f.digits) for f in shown) + " |")
    lines += ["", "| question | difference | | 95 % over people | p (Holm) | found with 80 % power | answer |"]
    lines.append("|---|---|---|---|---|---|---|")
    lines += [_answer(question, difference) for question, difference in table.answers]
    return "\n".join(lines) + "\n"


def _cell(cell: Cell | None, digits: int) -> str:
    if cell is None:
        return "–"
    interval = "" if cell.ci_low is None else f" [{cell.ci_low:.{digits}f}, {cell.ci_high:.{digits}f}]"
    scatter = "" if cell.seed_std is None else f" ± {cell.seed_std:.{digits}f}"
    return f"{cell.mean:.{digits}f}{interval}{scatter}"


def _answer(question: Question, difference: Difference) -> str:
    digits = difference.contrast.figure.digits
    interval = (
        "–" if difference.ci_low is None else f"[{difference.ci_low:.{digits}f}, {difference.ci_high:.{digits}f}]"
    )
    p = "–" if difference.p_holm is None else f"{difference.p_holm:.4f}"
    detectable = "–" if difference.detectable is None else f"{difference.detectable:.{digits}f}"
    what = f"{difference.contrast.figure.label}: {question.run} − {question.minus}"
    cells = (question.text, what, f"{difference.mean:+.{digits}f}", interval, p, detectable, difference.verdict)
    return "| " + " | ".join(cells) + " |"


def to_dict(table: AblationTable) -> dict[str, Any]:
    """For a JSON file; nothing is rounded."""
    answers = [{"question": q._asdict(), **asdict(d), "verdict": d.verdict} for q, d in table.answers]
    cells = {run: {key: asdict(cell) for key, cell in of.items()} for run, of in table.cells.items()}
    return {
        "title": table.title, "seeds": table.num_seeds, "pictures": table.num_pictures, "people": table.num_people,
        "figures": [asdict(figure) for figure in table.figures], "runs": cells, "answers": answers,
    }  # fmt: skip


def draw_answers(table: AblationTable, key: str, path: Path) -> None:
    """Every question's difference in one figure with its interval, as SVG or PNG by the suffix of `path`."""
    asked = [(q, d) for q, d in table.answers if d.contrast.key == key]
    if not asked:
        return
    with canvas(8.5, 0.6 + 0.32 * len(asked)) as drawing:
        axes = drawing.subplots()
        places = np.arange(len(asked))[::-1]
        for place, (_, difference) in zip(places, asked, strict=True):
            color = VERDICT_COLORS.get(difference.verdict, NATURAL_COLOR)
            if difference.ci_low is not None and difference.ci_high is not None:
                axes.plot([difference.ci_low, difference.ci_high], [place, place], color=color, linewidth=2)
            axes.plot(difference.mean, place, "o", color=color, markersize=5)
        axes.axvline(0, color="#3c4043", linewidth=0.8)
        axes.set_yticks(places, [f"{question.text}  ({question.run} − {question.minus})" for question, _ in asked])
        axes.set_xlabel(f"difference in {asked[0][1].contrast.figure.label}, 95 % over people")
        drawing.savefig(path, dpi=110)


def draw_sweep(table: AblationTable, w: float, key: str, other: str, path: Path) -> None:
    """Every row's path over the fidelity weights in the plane of two figures; `w` is the weight of the table."""
    rows: dict[str, list[tuple[float, Cell, Cell]]] = {}
    main = {label.split(" ")[0]: label for label in table.cells if label in ROWS or label.endswith(" ref")}
    for label, cells in table.cells.items():
        row, _, setting = label.partition(" w=")
        if setting and key in cells and other in cells:
            rows.setdefault(row, []).append((float(setting), cells[key], cells[other]))
    if not rows:
        return
    by_key = {figure.key: figure for figure in table.figures}
    with canvas(6.4, 4.2) as drawing:
        axes = drawing.subplots()
        for i, (row, points) in enumerate(rows.items()):
            table_point = table.cells.get(main.get(row, ""), {})
            xy = [(w, x.mean, y.mean) for w, x, y in points]
            if key in table_point and other in table_point:
                xy.append((w, table_point[key].mean, table_point[other].mean))
            line: Floats = np.array(sorted(xy))
            axes.plot(line[:, 1], line[:, 2], "o-", color=COLORS[i % len(COLORS)], label=row, markersize=4)
        axes.set(xlabel=by_key[key].label, ylabel=by_key[other].label)
        axes.legend(loc="best")
        drawing.savefig(path, dpi=110)
