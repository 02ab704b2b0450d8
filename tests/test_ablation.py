"""The tables of an ablation: means over seeds, intervals over people, and what the questions are answered with."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from ablation_toys import PEOPLE, PHOTOS, write_report

from basicsr.evaluation.ablation import QUESTIONS, tabulate, to_dict
from basicsr.evaluation.ablation_charts import draw_answers, draw_sweep
from basicsr.evaluation.ablation_options import ROWS
from basicsr.evaluation.ablation_text import gap_rows, run_rows, to_markdown
from basicsr.evaluation.comparison import is_asked
from basicsr.evaluation.results import Figure
from basicsr.evaluation.runs import read_runs
from basicsr.utils.errors import UserError

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
    answers = {answer.question.text: answer.difference for answer in table.answers_in("ids_judge")}
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
    assert {answer.verdict for answer in table.answers_in("ids_judge")} == {"no difference shown"}


def test_only_questions_with_both_runs_are_asked_and_all_name_rows_that_exist(reports: list[Path]) -> None:
    asked = {answer.question.text for answer in tabulate("T", reports).answers}
    assert asked == {q.text for q in QUESTIONS if q.run in LEVELS and q.minus in LEVELS}
    for question in QUESTIONS:
        for label in (question.run, question.minus):
            row = label.split(" ")[0]
            assert label == "ceiling" or ROWS[row].sees == (" " in label), label


def test_a_run_that_a_seed_lacks_is_left_out_and_named(tmp_path: Path, reports: list[Path]) -> None:
    fewer = write_report(tmp_path / "fewer", {"A": 0.3, "B": 0.32, "C ref": 0.4}, 3)
    table = tabulate("T", [*reports, fewer])
    assert list(table.cells) == ["A", "B", "C ref"]
    assert table.left_out == ["C wrong", "C none", "C w=0", "C w=1"]
    assert "Left out, since not every seed has them: C wrong, C none, C w=0, C w=1." in to_markdown(table)
    with pytest.raises(UserError, match="other: have no run in common"):
        tabulate("T", [*reports, write_report(tmp_path / "other", {"A0": 0.3}, 0)])


def test_the_mean_of_every_seed_stands_beside_the_difference(reports: list[Path]) -> None:
    answer = next(a for a in tabulate("T", reports).answers_in("ids_judge") if a.question.run == "B")
    for report, found in zip(reports, answer.by_seed, strict=True):
        runs = {run.label: run.values["ids_judge"] for run in read_runs(report)}
        assert found == pytest.approx(np.mean([runs["B"][name] - runs["A"][name] for name in runs["A"]]))
    assert answer.difference.mean == pytest.approx(np.mean(answer.by_seed))
    assert answer.num_agreeing == 3


def test_a_sign_that_the_seeds_do_not_share_is_no_answer(tmp_path: Path) -> None:
    """+0.10 and -0.02: over people the mean is far from 0, over trainings nobody knows."""
    levels = ({"A": 0.3, "B": 0.4}, {"A": 0.3, "B": 0.28})
    table = tabulate("T", [write_report(tmp_path / str(seed), of, seed) for seed, of in enumerate(levels)])
    (answer,) = table.answers_in("ids_judge")
    assert answer.difference.verdict == "better"
    assert answer.verdict == "seeds disagree"
    assert "(1 of 2 agree)" in to_markdown(table)


def test_the_gap_between_the_recogniser_that_trains_and_the_judge_is_set_against_the_baseline(tmp_path: Path) -> None:
    levels, gaps = {"A": 0.3, "B": 0.4, "B w=1": 0.4}, {"A": 0.02, "B": 0.12, "B w=1": 0.1}
    table = tabulate("T", [write_report(tmp_path / str(seed), levels, seed, gaps) for seed in range(2)])
    head, _, first, second = gap_rows(table)
    assert head == "| Overfit gap | | above A | 95 % over people |"
    assert first.startswith("| A (baseline) | 0.02")
    assert first.endswith("| – | – |")
    numbers = [float(number.replace("−", "-")) for number in re.findall(r"[+−]?\d\.\d+", second)]
    mean, above, low, high = numbers[0], *numbers[-3:]
    assert mean == pytest.approx(0.12, abs=0.005)
    assert low < above < high
    assert above == pytest.approx(0.1, abs=0.005)
    assert "Overfit gap" not in run_rows(table, ["A"], table.columns)[0]
    assert gap_rows(tabulate("T", [write_report(tmp_path / "none", levels, 0)])) == []


def test_the_family_is_the_questions_in_identity_and_in_lpips_of_the_whole_picture(reports: list[Path]) -> None:
    answers = tabulate("T", reports).answers
    assert {answer.difference.contrast.key for answer in answers} == {"ids_judge", "lpips_squeeze"}
    smallest = min(answer.difference.p or 1 for answer in answers)
    adjusted = min(answer.difference.p_holm or 1 for answer in answers)
    assert adjusted == pytest.approx(smallest * len(answers)), "Holm over all of them"
    face = Figure("lpips_squeeze_face", "LPIPS (face)", "lower", "", 4, "perceptual")
    assert not is_asked(face)


def test_table_json_and_figures_hold_every_run_and_answer(tmp_path: Path, reports: list[Path]) -> None:
    table = tabulate("After stage III", reports)
    text = to_markdown(table)
    assert all(f"| {label} " in text for label in LEVELS)
    assert "± 0.0" in text
    assert len(json.loads(json.dumps(to_dict(table)))["answers"]) == len(table.answers)
    draw_answers(table, "ids_judge", tmp_path / "answers.png")
    draw_sweep(table, 0.5, "lpips_squeeze", "ids_judge", tmp_path / "sweep.png")
    assert (tmp_path / "answers.png").stat().st_size > 5_000
    assert (tmp_path / "sweep.png").stat().st_size > 5_000
