"""The tables of an ablation as Markdown: runs with intervals, and the answers to its questions."""

from __future__ import annotations

from collections.abc import Sequence

from basicsr.evaluation.ablation import OVERFIT_KIND, AblationTable, Answer, Cell
from basicsr.evaluation.ablation_options import ROWS
from basicsr.evaluation.cells import ARROWS, decimal, difference_row, signed
from basicsr.evaluation.comparison import Contrast, estimate
from basicsr.evaluation.results import Figure

NOTHING = "–"


def to_markdown(table: AblationTable) -> str:
    """The table and the answers."""
    lines = [f"## {table.title}", ""]
    lines += [counted(table), "", *run_rows(table, list(table.cells), table.columns), ""]
    gaps = gap_rows(table)
    lines += [*gaps, ""] if gaps else []
    lines += answer_rows(table.answers)
    return "\n".join(lines) + "\n"


def counted(table: AblationTable) -> str:
    """What the numbers are of, as sentences."""
    seeds = "1 seed" if table.num_seeds == 1 else f"{table.num_seeds} seeds"
    text = (
        f"{table.num_pictures} pictures of {table.num_people} held-out people, {seeds}. Mean over pictures and seeds, "
        "[95 % over people]"
    )
    text += "." if table.num_seeds == 1 else ", ± standard deviation between seeds."
    if table.left_out:
        text += f" Left out, since not every seed has them: {', '.join(table.left_out)}."
    return text


def run_rows(table: AblationTable, runs: Sequence[str], figures: Sequence[Figure]) -> list[str]:
    """A line per run, a column per figure."""
    heads = [f"{figure.label} {ARROWS[figure.better]}".strip() for figure in figures]
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---|" * len(figures)]
    for run in runs:
        cells = [cell_text(table.cells[run].get(figure.key), figure.digits) for figure in figures]
        lines.append(f"| {run_name(run)} | " + " | ".join(cells) + " |")
    return lines


def run_name(run: str) -> str:
    """A run; with what its row is where it stands for the row."""
    row = run.removesuffix(" ref")
    return f"{run} ({ROWS[row].says})" if row in ROWS else run


def cell_text(cell: Cell | None, digits: int) -> str:
    """`0.412 [0.399, 0.425] ± 0.003`; a dash where there is no such figure."""
    if cell is None:
        return NOTHING
    interval = scatter = ""
    if cell.ci_low is not None and cell.ci_high is not None:
        interval = f" [{decimal(cell.ci_low, digits)}, {decimal(cell.ci_high, digits)}]"
    if cell.seed_std is not None:
        scatter = f" ± {decimal(cell.seed_std, digits)}"
    return f"{decimal(cell.mean, digits)}{interval}{scatter}"


def answer_rows(answers: Sequence[Answer]) -> list[str]:
    """A line per question and figure."""
    heads = ("question", "difference", "", "95 % over people", "by seed", "p (Holm)", "found with 80 % power", "answer")
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for answer in answers:
        row = difference_row(answer.difference, answer.question.text, answer.verdict)
        what = f"{row.figure}: {answer.question.run} − {answer.question.minus}"
        cells = (row.title, what, row.mean, row.interval, seeds_text(answer), row.p, row.detectable, row.verdict)
        lines.append("| " + " | ".join(cell or NOTHING for cell in cells) + " |")
    return lines


def gap_rows(table: AblationTable, baseline: str = "A") -> list[str]:
    """A line per run: by how much more the recogniser that trains sees the person than the judge, against the baseline.

    Where this gap grows, a run has learned the recogniser and not the person. Empty where it was not measured.
    """
    figure = table.first_figure(OVERFIT_KIND)
    if figure is None:
        return []
    runs = [run for run in table.cells if figure.key in table.cells[run] and " w=" not in run]
    contrasts = [Contrast("", run, figure.key, baseline, figure.key, figure) for run in runs if run != baseline]
    above = estimate(table.runs, contrasts) if baseline in runs else []
    rows = {difference.contrast.run: difference_row(difference, "", "") for difference in above}
    lines = [f"| {figure.label} | | above {baseline} | 95 % over people |", "|---|---|---|---|"]
    for run in runs:
        row = rows.get(run)
        cells = (
            cell_text(table.cells[run][figure.key], figure.digits),
            row.mean if row else "",
            row.interval if row else "",
        )
        lines.append(f"| {run_name(run)} | " + " | ".join(cell or NOTHING for cell in cells) + " |")
    return lines


def seeds_text(answer: Answer) -> str:
    """`+0.031, +0.027 (2 of 2 agree)`."""
    digits = answer.difference.contrast.figure.digits
    values = ", ".join(signed(value, digits) for value in answer.by_seed)
    if len(answer.by_seed) == 1:
        return f"{values} (one seed)"
    return f"{values} ({answer.num_agreeing} of {len(answer.by_seed)} agree)"
