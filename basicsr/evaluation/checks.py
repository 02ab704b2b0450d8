"""Checks of a run that is guided by a reference: does it listen, does it copy, how far is it from what can be reached?

They are differences as those of comparison.py, with a family of their own. Runs take part by their role (ROLES).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from basicsr.evaluation.comparison import Contrast, Difference, estimate
from basicsr.evaluation.results import Figure
from basicsr.evaluation.runs import RunValues, split_label
from basicsr.utils.errors import UserError

ROLES: dict[str, str] = {
    "main": "the run that is checked, restored with the right references",
    "wrong": "the same network, given photos of somebody else",
    "oracle": "the same network, given the ground truth itself as reference",
    "ceiling": "the autoencoder's reconstruction of the ground truth: what its codebook can show at all",
    "blind": "the same network without an identity",
}
GALLERY_KINDS = {"ids": "ids_gallery", "cos_ref_gt": "cos_ref_gallery"}  # for sets without ground truth


@dataclass(frozen=True)
class Check:
    """One row: the question, the difference, and what its sign says."""

    question: str
    difference: Difference
    if_positive: str
    if_negative: str
    judge: str

    @property
    def answer(self) -> str:
        """What may be said."""
        if self.difference.verdict in ("no difference shown", "too few people"):
            return self.difference.verdict
        return self.if_positive if self.difference.mean > 0 else self.if_negative


@dataclass(frozen=True)
class Question:
    """What is asked of two columns of one judge; kinds are those of Figure, roles those of ROLES."""

    text: str
    plus: tuple[str, str]  # role, kind
    minus: tuple[str, str]
    if_positive: str
    if_negative: str


QUESTIONS = (
    Question(
        "Does a right reference help more than a wrong one?",
        ("main", "ids"), ("wrong", "ids"), "yes: it listens to the reference", "no: a wrong reference is better",
    ),
    Question(
        "Does a wrong reference pull the face towards its person (more than the GT is like them)?",
        ("wrong", "ids_ref"), ("wrong", "cos_ref_gt"), "yes: it can be misused to change a person", "no",
    ),
    Question(
        "Does it copy the reference (more alike than two photos of the person are)?",
        ("main", "ids_ref"), ("main", "cos_ref_gt"), "yes: it copies", "no: less alike than two real photos",
    ),
    Question(
        "Does a reference help more than none?",
        ("main", "ids"), ("blind", "ids"), "yes", "no: it is better without",
    ),
    Question(
        "Would a perfect reference (the GT) give more?",
        ("oracle", "ids"), ("main", "ids"), "yes: the reference limits", "no: the reference is not used better",
    ),
    Question(
        "Could the codebook show more?",
        ("ceiling", "ids"), ("main", "ids"), "yes: the code prediction limits", "no: the codebook limits",
    ),
)  # fmt: skip


def check_runs(
    runs: Sequence[RunValues], families: Sequence[Mapping[str, str]], *, seed: int = 0, num_resamples: int = 10_000
) -> list[Check]:
    """The checks for which there are runs, for every judge. A set without ground truth has its gallery in its place.

    Args:
        families: label of a run by role (see ROLES), for each network that is checked.
    Raises:
        UserError: no such role or run.
    """
    by_label = {run.label: run for run in runs}
    for roles in families:
        refuse_unknown_roles(list(by_label), roles)
    asked: list[tuple[Question, Contrast]] = []
    for roles, question in itertools.product(families, QUESTIONS):
        (role, kind), (minus_role, minus_kind) = question.plus, question.minus
        if role not in roles or minus_role not in roles:
            continue
        plus_figures = figures_by_judge(by_label[roles[role]], kind)
        minus_figures = figures_by_judge(by_label[roles[minus_role]], minus_kind)
        for judge, figure in plus_figures.items():
            if judge in minus_figures:
                minus_key = minus_figures[judge].key
                contrast = Contrast(question.text, roles[role], figure.key, roles[minus_role], minus_key, figure)
                asked.append((question, contrast))
    differences = {
        id(d.contrast): d for d in estimate(runs, [c for _, c in asked], seed=seed, num_resamples=num_resamples)
    }
    return [
        Check(
            question.text, differences[id(contrast)], question.if_positive, question.if_negative, contrast.figure.judge
        )
        for question, contrast in asked
        if id(contrast) in differences
    ]


def refuse_unknown_roles(labels: Sequence[str], roles: Mapping[str, str]) -> None:
    """UserError where there is no such role, or no such run."""
    for role, label in roles.items():
        if role not in ROLES:
            raise UserError(f"role '{role}': expected one of {', '.join(ROLES)}")
        if label not in labels:
            raise UserError(f"role {role}={label}: no such run; there are: {', '.join(labels)}")


def overfit_checks(
    runs: Sequence[RunValues], baseline: str, *, seed: int = 0, num_resamples: int = 10_000
) -> list[Check]:
    """Whether IDS by a recogniser of the training rises more over the baseline than IDS by the judges does.

    A gain that the judges do not see was fitted to the recogniser of the loss or the tokens, not to the person.
    """
    contrasts = [
        Contrast(
            "Does the recognizer of the training see more of the gain than the judge?",
            run.label, figure.key, baseline, figure.key, figure,
        )
        for run in runs
        if run.label != baseline
        for figure in run.figures.values()
        if figure.kind == "gap"
    ]  # fmt: skip
    return [
        Check(
            difference.contrast.title, difference, "yes: that much is fitted to it", "no: the judge sees more of it",
            difference.contrast.figure.judge,
        )
        for difference in estimate(runs, contrasts, seed=seed, num_resamples=num_resamples)
    ]  # fmt: skip


def figures_by_judge(run: RunValues, kind: str) -> dict[str, Figure]:
    """The figures of one kind, by judge; without ground truth those of the gallery."""
    found = {figure.judge: figure for figure in run.figures.values() if figure.kind == kind}
    return found or ({} if kind not in GALLERY_KINDS else figures_by_judge(run, GALLERY_KINDS[kind]))


def roles_from_names(labels: Sequence[str]) -> list[dict[str, str]]:
    """Roles that runs are called by in their last word: wrong, oracle, ceiling, vqgan, none or blind, ref.

    Each network with a run called `ref` has roles of its own: the runs whose words before are the same ("D ref", "D
    wrong"). Another network's run without an identity answers no question about this one. Only the ceiling is that of
    the codebook, which all share.
    """
    words = {"ref": "main", "wrong": "wrong", "oracle": "oracle", "ceiling": "ceiling", "vqgan": "ceiling",
             "none": "blind", "blind": "blind"}  # fmt: skip
    shared: dict[str, str] = {}
    families: dict[str, dict[str, str]] = {}
    for label in labels:
        family, word = split_label(label)
        role = words.get(word)
        if role == "ceiling":
            shared.setdefault(role, label)
        elif role is not None:
            families.setdefault(family, {}).setdefault(role, label)
    return [roles | shared for roles in families.values() if "main" in roles]
