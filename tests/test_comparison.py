"""Paired comparison of runs, checks by role, and reading runs back from files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from basicsr.evaluation.checks import check_runs, roles_from_names
from basicsr.evaluation.comparison import DETECTABLE_ERRORS, compare_runs, holm
from basicsr.evaluation.results import EvaluationPair, EvaluationResult, Figure
from basicsr.evaluation.runs import RunValues, common_names, mean_of_seeds, read_runs, runs_of
from basicsr.evaluation.tables import write_tables
from basicsr.utils.errors import UserError

IDS = Figure("ids_j", "IDS (j)", "higher", "cosine", 3, "ids", "j")
LPIPS = Figure("lpips", "LPIPS", "lower", "whole image", 4, "perceptual")
TO_REF = Figure("ids_ref_j", "IDS to reference (j)", "neither", "cosine", 3, "ids_ref", "j")
NATURAL = Figure("cos_ref_gt_j", "cos(ref, GT) (j)", "neither", "cosine", 3, "cos_ref_gt", "j")
FIGURES = {figure.key: figure for figure in (IDS, LPIPS, TO_REF, NATURAL)}
NAMES = [f"p{i:03d}" for i in range(120)]
PEOPLE = {name: f"person{i // 3}" for i, name in enumerate(NAMES)}


def run(label: str, **columns: np.ndarray) -> RunValues:
    values = {key: dict(zip(NAMES, column.tolist(), strict=True)) for key, column in columns.items()}
    return RunValues(label, values, PEOPLE, FIGURES)


@pytest.fixture
def pair_of_runs(rng: np.random.Generator) -> list[RunValues]:
    """B is better than A by .05 in IDS, pictures differ much more than that; in LPIPS there is only noise."""
    base = rng.normal(0.5, 0.2, 120)
    return [
        run("A", ids_j=base, lpips=rng.normal(0.3, 0.1, 120)),
        run("B", ids_j=base + rng.normal(0.05, 0.03, 120), lpips=rng.normal(0.3, 0.1, 120)),
    ]


def test_a_small_paired_difference_is_found_under_a_large_spread_of_pictures(pair_of_runs: list[RunValues]) -> None:
    ids, lpips = compare_runs(pair_of_runs, "A", num_resamples=2000)
    assert ids.contrast.title == "B − A"
    assert (ids.n, ids.num_people) == (120, 40)
    a, b = (np.array(list(r.values["ids_j"].values())) for r in pair_of_runs)
    assert ids.mean == pytest.approx((b - a).mean())
    assert (ids.verdict, lpips.verdict) == ("better", "no difference shown")
    assert compare_runs(pair_of_runs, "B", num_resamples=2000)[0].verdict == "worse"


def test_the_detectable_difference_follows_from_the_spread_of_people(pair_of_runs: list[RunValues]) -> None:
    ids = compare_runs(pair_of_runs, "A", ["ids_j"], num_resamples=4000)[0]
    a, b = (np.array(list(r.values["ids_j"].values())) for r in pair_of_runs)
    of_people = (b - a).reshape(40, 3).mean(1)
    assert DETECTABLE_ERRORS == pytest.approx(1.96 + 0.842, abs=1e-3)
    assert ids.detectable == pytest.approx(DETECTABLE_ERRORS * of_people.std(ddof=1) / math.sqrt(40), rel=0.1)


def test_the_sign_decides_by_the_direction_of_the_figure(rng: np.random.Generator) -> None:
    base = rng.normal(0.3, 0.1, 120)
    runs = [run("A", lpips=base), run("B", lpips=base - 0.1 + rng.normal(0, 0.01, 120))]
    assert compare_runs(runs, "A", num_resamples=500)[0].verdict == "better"


def test_two_equal_runs_differ_by_nothing_and_no_ranking_is_claimed(pair_of_runs: list[RunValues]) -> None:
    first = pair_of_runs[0]
    twin = RunValues("twin", first.values, PEOPLE, FIGURES)
    difference = compare_runs([first, twin], "A", ["ids_j"], num_resamples=200)[0]
    assert (difference.mean, difference.p, difference.verdict) == (0.0, 1.0, "no difference shown")


def test_without_an_effect_about_one_comparison_in_twenty_is_significant_before_holm() -> None:
    low = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        noise = rng.normal(0, 1, 120)
        runs = [run("A", ids_j=noise), run("B", ids_j=noise + np.repeat(rng.normal(0, 0.2, 40), 3))]
        p = compare_runs(runs, "A", seed=trial, num_resamples=400)[0].p
        assert p is not None
        low += p < 0.05
    assert 2 <= low <= 24  # 10 expected; 3.5 standard errors, and the bootstrap is a little bold on 40 people


def test_holm_is_the_published_procedure() -> None:
    # sorted .01 .02 .03 .04, times 4 3 2 1: .04 .06 .06 .04, never below the one before
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_one_person_gives_no_interval_and_infinite_values_none_either() -> None:
    alone = RunValues("A", {"lpips": {"p000": 0.1, "p001": 0.2}}, dict.fromkeys(NAMES, "x"), FIGURES)
    other = RunValues("B", {"lpips": {"p000": 0.2, "p001": 0.3}}, dict.fromkeys(NAMES, "x"), FIGURES)
    difference = compare_runs([alone, other], "A")[0]
    assert (difference.ci_low, difference.p, difference.verdict) == (None, None, "too few people")
    infinite = RunValues("B", {"lpips": {"p000": math.inf, "p001": 0.3}}, PEOPLE, FIGURES)
    assert compare_runs([alone, infinite], "A")[0].ci_low is None


def test_what_cannot_be_compared_is_one_line(pair_of_runs: list[RunValues]) -> None:
    with pytest.raises(UserError, match="baseline 'C': expected one of A, B"):
        compare_runs(pair_of_runs, "C")
    with pytest.raises(UserError, match="figure fid: cannot be compared; there are: ids_j, lpips"):
        compare_runs(pair_of_runs, "A", ["fid"])
    changed = {"ids_j": Figure("ids_j", "IDS (j)", "higher", "another crop", 3, "ids", "j")}
    other = RunValues("B", pair_of_runs[1].values, PEOPLE, changed)
    with pytest.raises(UserError, match="judged under other conditions"):
        compare_runs([pair_of_runs[0], other], "A")


def test_checks_answer_what_was_put_into_the_runs(rng: np.random.Generator) -> None:
    gt = rng.normal(0.6, 0.05, 120)  # cos(ref, GT)
    noise = rng.normal(0, 0.02, 120)
    runs = [
        run("ref", ids_j=gt + noise, ids_ref_j=gt - 0.2 + noise, cos_ref_gt_j=gt),
        run("wrong", ids_j=gt - 0.1, ids_ref_j=noise + 0.1, cos_ref_gt_j=noise),
        run("none", ids_j=gt + noise, ids_ref_j=gt, cos_ref_gt_j=gt),
        run("vqgan", ids_j=gt + 0.2, ids_ref_j=gt, cos_ref_gt_j=gt),
    ]
    roles = roles_from_names([r.label for r in runs])
    assert roles == {"main": "ref", "wrong": "wrong", "blind": "none", "ceiling": "vqgan"}
    answers = {check.question: check.answer for check in check_runs(runs, roles, num_resamples=500)}
    assert list(answers.values()) == [
        "yes: it listens to the reference",
        "yes: it can be misused to change a person",
        "no: less alike than two real photos",
        "no difference shown",
        "yes: the code prediction limits",
    ]
    with pytest.raises(UserError, match="role main=gone: no such run"):
        check_runs(runs, {"main": "gone"})
    with pytest.raises(UserError, match="role 'boss'"):
        check_runs(runs, {"boss": "ref"})


def test_the_mean_of_seeds_is_taken_by_picture_on_those_that_all_seeds_have() -> None:
    one = RunValues("D0", {"lpips": {"a": 1.0, "b": 2.0}}, {"a": None, "b": None}, FIGURES)
    two = RunValues("D1", {"lpips": {"a": 3.0}}, {"a": None, "b": None}, FIGURES)
    mean = mean_of_seeds([one, two], "D")
    assert (mean.label, mean.values) == ("D", {"lpips": {"a": 2.0}})
    assert common_names([one, two], "lpips") == ["a"]


def test_runs_read_back_from_their_files_are_the_same(tmp_path: Path) -> None:
    pairs = [
        EvaluationPair(name, Path(name), {}, {}, None, PEOPLE[name], attributes={"yaw": "3"}) for name in NAMES[:4]
    ]
    values = {label: {"lpips": {name: i / 3 for i, name in enumerate(NAMES[:4])}} for label in ("A", "B")}
    del values["B"]["lpips"][NAMES[0]]
    write_tables(EvaluationResult("t", "", ["A", "B"], pairs, [LPIPS], values, [], [], []), tmp_path)
    read = read_runs(tmp_path)
    assert [r.label for r in read] == ["A", "B"]
    assert [dict(r.values) for r in read] == [values["A"], values["B"]]
    assert dict(read[0].identity) == {name: PEOPLE[name] for name in NAMES[:4]}
    assert read[0].figures == {"lpips": LPIPS}
    (renamed,) = read_runs(tmp_path / "per_image.csv", {"B": "other seed"})
    assert renamed.label == "other seed"
    with pytest.raises(UserError, match="no run 'C'; it has: A, B"):
        read_runs(tmp_path, {"C": "c"})


def test_a_cell_that_is_no_number_is_named_with_its_line(tmp_path: Path) -> None:
    pairs = [EvaluationPair("a", Path("a"), {}, {}, None, None)]
    result = EvaluationResult("t", "", ["A"], pairs, [LPIPS], {"A": {"lpips": {"a": 0.1}}}, [], [], [])
    write_tables(result, tmp_path)
    table = tmp_path / "per_image.csv"
    table.write_text(table.read_text().replace("0.1", "nan"))
    with pytest.raises(UserError, match=r"per_image\.csv:2: lpips: found 'nan', expected a number"):
        read_runs(tmp_path)
    (tmp_path / "metrics.json").unlink()
    with pytest.raises(UserError, match=r"metrics\.json: cannot be read"):
        read_runs(tmp_path)


def test_runs_of_an_evaluation_are_those_of_its_result() -> None:
    pairs = [EvaluationPair("a", Path("a"), {}, {}, None, "ann")]
    result = EvaluationResult("t", "", ["A"], pairs, [LPIPS], {"A": {"lpips": {"a": 0.1}}}, [], [], [])
    (one,) = runs_of(result)
    assert (one.label, dict(one.identity)) == ("A", {"a": "ann"})
