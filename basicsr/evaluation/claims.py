"""What may be said of an ablation, as sentences: every word about better or worse comes from a verdict.

The claim of the table, A < B < C < D, is decided step by step: it holds where each step is shown by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from basicsr.evaluation.ablation import AblationTable, Answer
from basicsr.evaluation.ablation_text import seeds_text
from basicsr.evaluation.cells import difference_row
from basicsr.evaluation.results import Figure

CHAIN = ("A", "B", "C ref", "D ref")
WORDS = {
    "better": "Better.",
    "worse": "Worse.",
    "no difference shown": "No difference shown.",
    "seeds disagree": "Not shown: the seeds disagree.",
    "too few people": "Cannot be said: too few people.",
}
SIGNS = {"better": "<", "worse": ">"}


@dataclass(frozen=True)
class Claim:
    """A < B < C < D in one figure; `<` is "worse than"."""

    figure: Figure
    steps: list[str]
    holds: bool
    conclusion: str


def sentence(answer: Answer) -> str:
    """One answer in words and numbers, with what the numbers cannot say."""
    difference = answer.difference
    row = difference_row(difference, "", "")
    what = f"{answer.question.run} − {answer.question.minus} in {row.figure}: {row.mean}"
    if difference.ci_low is None or difference.ci_high is None or difference.p_holm is None:
        return f"{WORDS[answer.verdict]} {what}."
    p = f"p {row.p}" if row.p.startswith("<") else f"p = {row.p}"
    text = f"{WORDS[answer.verdict]} {what} {row.interval}, {p}; by seed {seeds_text(answer)}."
    if answer.verdict == "no difference shown":
        if not difference.ci_low <= 0 <= difference.ci_high:
            text += " Its own interval leaves 0 out, but among all tests of the family one such is no surprise."
        text += f" A true difference of {row.detectable} would have been found with 80 % power."
    if answer.verdict == "seeds disagree":
        text += " What separates them may be the trainings, not the method."
    return text


def claim_of(table: AblationTable, figure: Figure) -> Claim:
    """Whether A < B < C < D is shown in a figure, and which steps are."""
    by_pair = {(a.question.minus, a.question.run): a for a in table.answers_in(figure.key)}
    steps, shown = [], []
    for lower, upper in pairwise(CHAIN):
        answer = by_pair.get((lower, upper))
        steps.append(step_text(lower, upper, answer))
        shown.append(answer is not None and answer.verdict == "better")
    holds = all(shown)
    said = f"A < B < C < D (each better than the one before) {'is' if holds else 'is not'} shown in {figure.label}"
    if not holds:
        said += f": {sum(shown)} of {len(shown)} steps are"
    if table.num_seeds == 1:
        said += ". One training each: of another seed this says nothing"
    return Claim(figure, steps, holds, f"{said}.")


def step_text(lower: str, upper: str, answer: Answer | None) -> str:
    """One step of the chain."""
    if answer is None:
        return f"{name(lower)} ? {name(upper)}: not measured"
    sign = SIGNS.get(answer.verdict, "?")
    return f"{name(lower)} {sign} {name(upper)}: {sentence(answer)}"


def name(run: str) -> str:
    """A row by its letter."""
    return run.split(" ")[0]


def questions_of(answers: Sequence[Answer]) -> list[tuple[str, list[str]]]:
    """(question, its sentences) in the order in which they were asked."""
    found: dict[str, list[str]] = {}
    for answer in answers:
        found.setdefault(answer.question.text, []).append(sentence(answer))
    return list(found.items())
