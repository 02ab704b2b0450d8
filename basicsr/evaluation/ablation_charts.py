"""Charts of an ablation, as SVG or PNG by the suffix of the path: its answers, one question, the sweep, the trainings.

Shapes: N pictures; P people; T logged iterations.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from basicsr.evaluation.ablation import AblationTable, Answer, Cell
from basicsr.evaluation.ablation_options import ROWS
from basicsr.evaluation.charts import COLORS, NATURAL_COLOR, Curves, canvas, running_mean
from basicsr.evaluation.comparison import Question, difference_column
from basicsr.evaluation.runs import common_names
from basicsr.evaluation.statistics import Floats, cluster_numbers

DPI = 110
VERDICT_COLORS = {"better": COLORS[2], "worse": COLORS[1]}
ZERO_COLOR = "#3c4043"
PANEL_COLUMNS = 3
LINE_STYLES = ("-", "--", ":")  # rows beyond the colours


def draw_answers(table: AblationTable, key: str, path: Path) -> None:
    """The differences of all questions in one figure with their intervals, and the means of the seeds as ticks.

    That to the ceiling is left out: it is so much larger that nothing could be read of the others.
    """
    asked = [answer for answer in table.answers_in(key) if answer.question.run != "ceiling"]
    if not asked:
        return
    with canvas(8.5, 0.6 + 0.32 * len(asked)) as drawing:
        axes = drawing.subplots()
        places = np.arange(len(asked))[::-1]
        for place, answer in zip(places, asked, strict=True):
            color, difference = VERDICT_COLORS.get(answer.verdict, NATURAL_COLOR), answer.difference
            if difference.ci_low is not None and difference.ci_high is not None:
                axes.plot([difference.ci_low, difference.ci_high], [place, place], color=color, linewidth=2)
            axes.plot(difference.mean, place, "o", color=color, markersize=5)
            if len(answer.by_seed) > 1:
                axes.plot(answer.by_seed, [place] * len(answer.by_seed), "|", color=ZERO_COLOR, markersize=8)
        axes.axvline(0, color=ZERO_COLOR, linewidth=0.8)
        axes.set_yticks(places, [f"{a.question.text}  ({a.question.run} − {a.question.minus})" for a in asked])
        label = f"difference in {asked[0].difference.contrast.figure.label}, 95 % over people; ticks: seeds"
        axes.set_xlabel(label, loc="right")  # the questions leave the axes narrow: it grows to the left, below them
        drawing.savefig(path, dpi=DPI)


def draw_questions(
    table: AblationTable, questions: Sequence[Question], folder: Path, name: str
) -> dict[Question, Path]:
    """A figure for each of some answered questions, `<name>_<run>_minus_<run>.png` in a folder that is there."""
    found = {}
    for question in questions:
        found[question] = folder / re.sub(r"[^\w.+]+", "_", f"{name}_{question.run} minus {question.minus}.png")
        draw_question(table, [a for a in table.answers if a.question == question], found[question])
    return found


def draw_question(table: AblationTable, answers: Sequence[Answer], path: Path) -> None:
    """One question: the difference of every person, sorted, a panel per figure, with mean, interval and seeds.

    Args:
        answers: those to the same question, one for each figure that was asked about.
    """
    with canvas(4.6 * len(answers), 3.1) as drawing:
        panels: Sequence[Axes] = drawing.subplots(1, len(answers), squeeze=False).flatten().tolist()
        for panel, answer in zip(panels, answers, strict=True):
            difference = answer.difference
            color = VERDICT_COLORS.get(answer.verdict, NATURAL_COLOR)
            people = np.sort(differences_of_people(table, answer))
            panel.plot(np.arange(1, len(people) + 1), people, "o", color=color, markersize=2.5, alpha=0.6)
            panel.axhline(0, color=ZERO_COLOR, linewidth=0.8)
            if difference.ci_low is not None and difference.ci_high is not None:
                panel.axhspan(difference.ci_low, difference.ci_high, color=color, alpha=0.2, linewidth=0)
            panel.axhline(difference.mean, color=color, linewidth=1.4)
            if len(answer.by_seed) > 1:
                ends = [len(people) + 0.5] * len(answer.by_seed)
                panel.plot(ends, answer.by_seed, "_", color=ZERO_COLOR, markersize=9, clip_on=False)
            panel.set_title(f"{answer.question.run} − {answer.question.minus}: {answer.verdict}", loc="left")
            panel.set(xlabel="people, sorted", ylabel=f"difference in {difference.contrast.figure.label}")
            panel.yaxis.label.set_fontsize(7.5)
        drawing.suptitle(answers[0].question.text, fontsize=10)
        drawing.savefig(path, dpi=DPI)


def differences_of_people(table: AblationTable, answer: Answer) -> Floats:
    """(P,) mean differences over the pictures and seeds of each person."""
    by_label = {run.label: run for run in table.runs}
    contrast = answer.difference.contrast
    names = common_names([by_label[contrast.run], by_label[contrast.minus_run]], contrast.key)
    column = difference_column(by_label, contrast, names)  # (N,)
    clusters = cluster_numbers([by_label[contrast.run].identity[name] for name in names])
    means: Floats = np.bincount(clusters, weights=column) / np.bincount(clusters)
    return means


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
            found = [(at, x.mean, y.mean) for at, x, y in points]
            if key in table_point and other in table_point:
                found.append((w, table_point[key].mean, table_point[other].mean))
            line: Floats = np.array(sorted(found))
            axes.plot(line[:, 1], line[:, 2], "o", ls=line_style(i), color=color_of(i), label=row, markersize=5)
            axes.plot(line[0, 1], line[0, 2], "o", color=color_of(i), markerfacecolor="white", markersize=5)
        axes.set(xlabel=by_key[key].label, ylabel=by_key[other].label)
        axes.set_title("hollow: the smallest w", loc="left", fontsize=8)
        axes.legend(loc="best")
        drawing.savefig(path, dpi=DPI)


def draw_trainings(rows: Mapping[str, Sequence[Curves]], path: Path) -> None:
    """A panel per loss, a colour per row, a line per seed; long curves as running means.

    Args:
        rows: the curves of each seed's training, by name of the row.
    """
    losses = list(dict.fromkeys(key for seeds in rows.values() for curves in seeds for key in curves))
    num_rows = math.ceil(len(losses) / PANEL_COLUMNS)
    with canvas(10.4, 2.3 * num_rows + 0.3) as drawing:
        panels: Sequence[Axes] = drawing.subplots(num_rows, PANEL_COLUMNS, squeeze=False).flatten().tolist()
        for panel, loss in zip(panels, losses, strict=False):
            for i, seeds in enumerate(rows.values()):
                for iterations, values in (curves[loss] for curves in seeds if loss in curves):
                    smooth = running_mean(values)
                    drawn = values if smooth is None else smooth
                    panel.plot(iterations, drawn, color=color_of(i), ls=line_style(i), linewidth=1)
            panel.set_title(loss, loc="left", fontfamily="monospace")
            panel.set_xlabel("iteration")
        for unused in panels[len(losses) :]:
            unused.set_visible(False)
        for i, row in enumerate(rows):
            panels[0].plot([], [], color=color_of(i), ls=line_style(i), label=row)
        drawing.legend(loc="outside right upper")
        drawing.savefig(path, dpi=DPI)


def color_of(place: int) -> str:
    """Colour of the row at a place; together with `line_style` different for all rows."""
    return COLORS[place % len(COLORS)]


def line_style(place: int) -> str:
    """Line of the row at a place."""
    return LINE_STYLES[place // len(COLORS) % len(LINE_STYLES)]
