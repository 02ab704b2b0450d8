"""A family of questions in place of all runs against a baseline."""

from __future__ import annotations

from pathlib import Path

import pytest
from ablation_toys import write_report
from evaluate import questions_of
from test_report import IDS, LPIPS, make_result

from basicsr.evaluation.analysis import analyse
from basicsr.evaluation.comparison import Question, ask_runs
from basicsr.evaluation.report import write_report as write_page
from basicsr.evaluation.runs import read_runs
from basicsr.utils.errors import UserError

BETTER = Question("Is y better?", "y", "x")


def test_questions_take_the_place_of_the_baseline_and_are_named_in_the_report(tmp_path: Path) -> None:
    result = make_result(tmp_path, 8, [IDS, LPIPS])
    analysis = analyse(result, questions=[BETTER])
    assert [(d.contrast.run, d.contrast.key) for d in analysis.differences] == [("y", "ids_j"), ("y", "lpips_alex")]
    assert [d.mean for d in analysis.differences] == pytest.approx([0.05, 0.05])
    page = write_page(result, tmp_path / "out", analysis=analysis).read_text()
    for text in (page, (tmp_path / "out" / "report.md").read_text()):
        assert "Is y better? y − x" in text
        assert "Comparison with" not in text


def test_a_question_about_a_run_or_a_figure_that_is_not_there_is_refused(tmp_path: Path) -> None:
    result = make_result(tmp_path, 8, [IDS])
    with pytest.raises(UserError, match="'Is z better\\?': no run 'z'; there are: x, y"):
        analyse(result, questions=[Question("Is z better?", "z", "x")])
    with pytest.raises(UserError, match="figure ids: cannot be compared; there are: ids_j"):
        analyse(result, questions=[BETTER], compared=["ids"])


def test_other_figures_are_asked_about_when_they_are_named(tmp_path: Path) -> None:
    runs = read_runs(write_report(tmp_path, {"x": 0.3, "y": 0.4}, 0))
    assert [d.contrast.key for _, d in ask_runs(runs, [BETTER])] == ["lpips_squeeze", "ids_judge"]
    assert [d.contrast.key for _, d in ask_runs(runs, [BETTER], ["psnr"])] == ["psnr"]


def test_a_table_of_questions_is_read_and_a_missing_column_named(tmp_path: Path) -> None:
    table = tmp_path / "questions.csv"
    table.write_text("question,run,minus\nIs y better?,y,x\n")
    assert questions_of(table) == [BETTER]
    assert questions_of(None) is None
    table.write_text("question,run\nIs y better?,y\n")
    with pytest.raises(UserError, match=r"questions\.csv:1: no column minus"):
        questions_of(table)
