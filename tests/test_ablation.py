"""The tables of an ablation: means over seeds, intervals over people, and what the questions are answered with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from basicsr.evaluation.ablation import QUESTIONS, draw_answers, draw_sweep, tabulate, to_dict, to_markdown
from basicsr.evaluation.ablation_options import ROWS
from basicsr.utils.errors import UserError

PEOPLE, PHOTOS = 30, 2
FIGURES = [
    ("psnr", "PSNR", "higher", "pixel", 2),
    ("lpips", "LPIPS-squeeze", "lower", "perceptual", 3),
    ("ids_judge", "IDS", "higher", "ids", 3),
]


def write_report(folder: Path, runs: dict[str, float], seed: int) -> Path:
    """An evaluation of made-up values: a run's IDS is its number plus noise of picture and seed."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    person = np.random.default_rng(99).normal(0, 0.05, PEOPLE)
    lines = ["name,identity,run,psnr,lpips,ids_judge,failure"]
    for run, level in runs.items():
        for n in range(PEOPLE * PHOTOS):
            ids = level + person[n // PHOTOS] + rng.normal(0, 0.01)
            lines.append(f"{n:03d},p{n // PHOTOS},{run},{20 + level!r},{0.5 - level / 10!r},{float(ids)!r},")
    (folder / "per_image.csv").write_text("\n".join(lines) + "\n")
    figures = [
        {"key": key, "label": label, "better": better, "protocol": "made up", "digits": digits, "kind": kind,
         "judge": "judge" if kind == "ids" else "", "weights_file": None, "weights_sha256": None}
        for key, label, better, kind, digits in FIGURES
    ]  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps({"figures": figures}))
    return folder


LEVELS = {"A": 0.3, "B": 0.32, "C ref": 0.4, "C wrong": 0.33, "C none": 0.32, "C w=0": 0.2, "C w=1": 0.45}


@pytest.fixture
def reports(tmp_path: Path) -> list[Path]:
    return [write_report(tmp_path / str(seed), LEVELS, seed) for seed in range(3)]


def test_a_cell_is_the_mean_over_pictures_and_seeds_with_the_scatter_of_the_seeds(reports: list[Path]) -> None:
    table = tabulate("T", reports)
    cell = table.cells["B"]["ids_judge"]
    per_seed = []
    for report in reports:
        rows = [line.split(",") for line in (report / "per_image.csv").read_text().splitlines()[1:]]
        per_seed.append(np.mean([float(row[5]) for row in rows if row[2] == "B"]))
    assert cell.mean == pytest.approx(np.mean(per_seed))
    assert cell.seed_std == pytest.approx(np.std(per_seed, ddof=1))
    assert (table.num_seeds, table.num_pictures, table.num_people) == (3, PEOPLE * PHOTOS, PEOPLE)


def test_a_difference_is_paired_so_that_what_people_have_in_common_drops_out(reports: list[Path]) -> None:
    table = tabulate("T", reports)
    answers = {question.text: d for question, d in table.answers if d.contrast.key == "ids_judge"}
    helped = answers["Does the conditioned transformer help?"]
    assert helped.verdict == "better"
    assert helped.mean == pytest.approx(0.08, abs=0.005)
    assert helped.ci_low is not None
    assert helped.ci_high is not None
    own = table.cells["B"]["ids_judge"]
    assert own.ci_low is not None
    assert own.ci_high is not None
    assert helped.ci_high - helped.ci_low < (own.ci_high - own.ci_low) / 3
    assert answers["Does C listen: right against wrong references?"].verdict == "better"


def test_equal_runs_get_no_ranking(tmp_path: Path) -> None:
    table = tabulate("T", [write_report(tmp_path / "0", {"A0": 0.3, "A": 0.3}, 5)])
    assert {d.verdict for _, d in table.answers if d.contrast.key == "ids_judge"} == {"no difference shown"}


def test_only_questions_with_both_runs_are_asked_and_all_name_rows_that_exist(reports: list[Path]) -> None:
    asked = {question.text for question, _ in tabulate("T", reports).answers}
    assert asked == {q.text for q in QUESTIONS if q.run in LEVELS and q.minus in LEVELS}
    for question in QUESTIONS:
        for label in (question.run, question.minus):
            row = label.split(" ")[0]
            assert label == "ceiling" or ROWS[row].sees == (" " in label), label


def test_reports_with_other_runs_are_refused(tmp_path: Path, reports: list[Path]) -> None:
    other = write_report(tmp_path / "other", {"A": 0.3}, 0)
    with pytest.raises(UserError, match="other: holds the runs A;"):
        tabulate("T", [*reports, other])


def test_table_json_and_figures_hold_every_run_and_answer(tmp_path: Path, reports: list[Path]) -> None:
    table = tabulate("After stage III", reports)
    text = to_markdown(table)
    assert all(f"| {label} " in text for label in LEVELS)
    assert "± 0.0" in text
    assert len(json.loads(json.dumps(to_dict(table)))["answers"]) == len(table.answers)
    draw_answers(table, "ids_judge", tmp_path / "answers.png")
    draw_sweep(table, 0.5, "lpips", "ids_judge", tmp_path / "sweep.png")
    assert (tmp_path / "answers.png").stat().st_size > 5_000
    assert (tmp_path / "sweep.png").stat().st_size > 5_000
