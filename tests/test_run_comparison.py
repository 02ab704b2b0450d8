"""Comparison of runs: pairing, intervals over people, honest p-values, Holm, conditions, checks, runs from files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from basicsr.evaluation.cells import check_rows
from basicsr.evaluation.checks import check_runs, roles_from_names
from basicsr.evaluation.comparison import NUM_RESAMPLES, Difference, compare_runs, holm
from basicsr.evaluation.results import EvaluationPair, EvaluationResult, Figure
from basicsr.evaluation.runs import RunValues, mean_of_seeds, read_runs, runs_of
from basicsr.evaluation.statistics import MIN_CLUSTERS
from basicsr.evaluation.tables import write_tables
from basicsr.utils.errors import UserError
from basicsr.utils.seed import rng_for

IDS = Figure("ids_j", "IDS (j)", "higher", "cosine", 3, "ids", "j", "j.onnx", "00")
TO_REF = Figure("ids_ref_j", "IDS to reference (j)", "neither", "cosine", 3, "ids_ref", "j")
NATURAL = Figure("cos_ref_gt_j", "cos(ref, GT) (j)", "neither", "cosine", 3, "cos_ref_gt", "j")
LPIPS = Figure("lpips_vgg", "LPIPS-vgg", "lower", "whole image", 4, "perceptual")
NUM_PEOPLE, PHOTOS = 30, 2


def run(label: str, values: dict[str, np.ndarray], *figures: Figure, photos: int = PHOTOS) -> RunValues:
    """A run whose i-th picture shows person i // photos."""
    names = [f"{i:03d}" for i in range(len(next(iter(values.values()))))]
    tables = {key: dict(zip(names, column.tolist(), strict=True)) for key, column in values.items()}
    identity: dict[str, str | None] = {name: f"p{i // photos}" for i, name in enumerate(names)}
    return RunValues(label, tables, identity, {figure.key: figure for figure in figures})


def people_and_photos(seed: int, num_people: int = NUM_PEOPLE, spread: float = 0.1) -> np.ndarray:
    """(N,) values; photos of one person are alike."""
    rng = rng_for(seed)
    return np.repeat(rng.normal(0, spread, num_people), PHOTOS) + rng.normal(0, spread / 4, num_people * PHOTOS)


def one_difference(values: np.ndarray, figure: Figure = IDS, num_resamples: int = NUM_RESAMPLES) -> Difference:
    """A run that differs from a baseline of zeros by `values`."""
    zeros = run("A", {figure.key: np.zeros(len(values))}, figure)
    (found,) = compare_runs([zeros, run("B", {figure.key: values}, figure)], "A", num_resamples=num_resamples)
    return found


def test_a_difference_is_paired_and_its_interval_draws_people() -> None:
    found = one_difference(people_and_photos(1) + 0.1, num_resamples=400)
    values = people_and_photos(1) + 0.1
    draws = rng_for(0).integers(NUM_PEOPLE, size=(400, NUM_PEOPLE))
    means = [values.reshape(NUM_PEOPLE, PHOTOS)[drawn].mean() for drawn in draws]
    assert found.mean == pytest.approx(values.mean())
    assert (found.n, found.num_people) == (NUM_PEOPLE * PHOTOS, NUM_PEOPLE)
    low, high = np.quantile(means, [0.025, 0.975])
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert found.ci_low < low < high < found.ci_high, "30 people: a little wider than the plain percentiles"
    assert found.ci_high - found.ci_low == pytest.approx(high - low, rel=0.15)


def test_the_direction_of_the_figure_says_who_is_better() -> None:
    values = people_and_photos(1) * 0.1 + 0.1
    assert one_difference(values).verdict == "better"
    assert one_difference(values, LPIPS).verdict == "worse"
    assert one_difference(-values, LPIPS).verdict == "better"
    assert one_difference(people_and_photos(2) - people_and_photos(2).mean()).verdict == "no difference shown"


@pytest.mark.parametrize("num_people", [MIN_CLUSTERS, 10, 25])
def test_without_a_difference_few_people_give_no_more_false_claims_than_stated(num_people: int) -> None:
    claims = 0
    for trial in range(400):
        found = one_difference(people_and_photos(10 + trial, num_people), num_resamples=500)
        claims += found.verdict != "no difference shown"
    assert claims / 400 <= 0.085, "5 % within three standard errors; plain percentiles give 11 % with 8 people"


def test_too_few_people_show_nothing_however_large_the_difference() -> None:
    found = one_difference(np.repeat(np.arange(1.0, MIN_CLUSTERS), PHOTOS))
    assert found.num_people == MIN_CLUSTERS - 1
    assert (found.verdict, found.ci_low, found.p, found.detectable) == ("too few people", None, None, None)
    six = one_difference(np.repeat(np.arange(1.0, MIN_CLUSTERS + 1), PHOTOS))
    assert six.p is not None
    assert six.p == pytest.approx(2.0**-5, abs=0.02)
    assert six.p >= 2.0**-5, "six signs that agree by chance"


def test_the_detectable_difference_is_found_with_eighty_percent_power() -> None:
    found_it = 0
    detectable = one_difference(people_and_photos(3), num_resamples=2000).detectable
    assert detectable is not None
    spread = np.sqrt(0.1**2 + 0.025**2 / PHOTOS)
    assert detectable == pytest.approx((1.96 + 0.84) * spread / np.sqrt(NUM_PEOPLE), rel=0.4)  # SD of 30 people
    true = (2.045 + 0.854) * spread / np.sqrt(NUM_PEOPLE)  # Student's t with 29 degrees of freedom
    for trial in range(300):
        found_it += one_difference(people_and_photos(500 + trial) + true, num_resamples=500).verdict == "better"
    assert 0.72 <= found_it / 300 <= 0.88


def test_a_larger_family_can_detect_less() -> None:
    values = {"ids_j": people_and_photos(1), "lpips_vgg": people_and_photos(2)}
    zeros = {key: np.zeros(NUM_PEOPLE * PHOTOS) for key in values}
    runs = [run("A", zeros, IDS, LPIPS), run("B", values, IDS, LPIPS)]
    alone = compare_runs(runs, "A", ["ids_j"])[0]
    together = compare_runs(runs, "A")[0]
    assert together.mean == alone.mean
    assert together.p == alone.p
    assert alone.detectable is not None
    assert together.detectable is not None
    assert together.detectable > 1.05 * alone.detectable


def test_holm_is_the_step_down_of_the_paper() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_runs_are_compared_on_the_pictures_that_all_have() -> None:
    a, b = (run(label, {"ids_j": people_and_photos(i)}, IDS) for i, label in enumerate("AB"))
    short = replace(b, values={"ids_j": dict(list(b.values["ids_j"].items())[:-4])})
    assert compare_runs([a, short], "A")[0].n == NUM_PEOPLE * PHOTOS - 4
    assert [d.n for d in compare_runs([a, b, replace(short, label="C")], "A")] == [NUM_PEOPLE * PHOTOS - 4] * 2


def test_equal_infinite_values_differ_by_zero() -> None:
    same = np.full(NUM_PEOPLE * PHOTOS, np.inf)
    runs = [run(label, {"ids_j": same}, IDS) for label in "AB"]
    found = compare_runs(runs, "A")[0]
    assert (found.mean, found.verdict) == (0.0, "no difference shown")


def test_figures_of_different_conditions_are_refused() -> None:
    values = {"ids_j": people_and_photos(1)}
    other = replace(IDS, weights_sha256="11")
    with pytest.raises(UserError, match="'B' was judged under other conditions than 'A'"):
        compare_runs([run("A", values, IDS), run("B", values, other)], "A")


@pytest.mark.parametrize(
    ("baseline", "keys", "message"),
    [("C", None, "baseline 'C': expected one of A, B"), ("A", ["psnr"], "figure psnr: cannot be compared")],
)
def test_what_is_not_there_is_named(baseline: str, keys: list[str] | None, message: str) -> None:
    runs = [run(label, {"ids_j": people_and_photos(1)}, IDS) for label in "AB"]
    with pytest.raises(UserError, match=message):
        compare_runs(runs, baseline, keys)


def guided(label: str, ids: float, to_ref: float, natural: float) -> RunValues:
    """A run whose figures lie around the given means."""
    noise = people_and_photos(4) * 0.1
    return run(
        label, {"ids_j": ids + noise, "ids_ref_j": to_ref + noise, "cos_ref_gt_j": natural - noise},
        IDS, TO_REF, NATURAL,
    )  # fmt: skip


def test_checks_answer_whether_a_run_listens_copies_and_what_it_could_reach() -> None:
    runs = [
        guided("none", 0.4, 0.3, 0.6), guided("ref", 0.6, 0.7, 0.6), guided("wrong", 0.3, 0.5, 0.0),
        guided("oracle", 0.7, 0.7, 1.0), guided("ceiling", 0.9, 0.6, 0.6),
    ]  # fmt: skip
    roles = roles_from_names([found.label for found in runs])
    assert roles == [{"blind": "none", "main": "ref", "wrong": "wrong", "oracle": "oracle", "ceiling": "ceiling"}]
    answers = {check.question.split("?")[0]: (check.difference.mean, check.answer) for check in check_runs(runs, roles)}
    expected = {
        "Does a right reference help more than a wrong one": (0.3, "yes: it listens to the reference"),
        "Does it copy the reference (more alike than two photos of the person are)": (0.1, "yes: it copies"),
        "Does a reference help more than none": (0.2, "yes"),
        "Would a perfect reference (the GT) give more": (0.1, "yes: the reference limits"),
        "Could the codebook show more": (0.3, "yes: the code prediction limits"),
    }
    for question, (mean, answer) in expected.items():
        assert answers[question] == (pytest.approx(mean, abs=0.02), answer)
    pulled = answers["Does a wrong reference pull the face towards its person (more than the GT is like them)"]
    assert pulled == (pytest.approx(0.5, abs=0.02), "yes: it can be misused to change a person")


def test_roles_by_name_are_those_of_one_network() -> None:
    labels = ["other none", "C ref", "C wrong", "C_none", "D ref", "D wrong", "vqgan"]
    c = {"main": "C ref", "wrong": "C wrong", "blind": "C_none", "ceiling": "vqgan"}
    assert roles_from_names(labels) == [c, {"main": "D ref", "wrong": "D wrong", "ceiling": "vqgan"}]
    assert roles_from_names(["none", "degraded", "vqgan"]) == []


def test_every_network_with_references_is_checked_and_the_rows_name_its_runs() -> None:
    runs = [guided("ref", 0.6, 0.5, 0.6), guided("wrong", 0.3, 0.3, 0.0)]
    runs += [guided("guided ref", 0.7, 0.8, 0.6), guided("guided wrong", 0.1, 0.5, 0.0)]
    checks = check_runs(runs, roles_from_names([found.label for found in runs]))
    copies = {c.difference.contrast.run: c.answer for c in checks if "copy" in c.question}
    assert copies == {"ref": "no: less alike than two real photos", "guided ref": "yes: it copies"}
    listens = {(c.difference.contrast.run, c.difference.contrast.minus_run): c.difference.mean
               for c in checks if "right reference" in c.question}  # fmt: skip
    assert listens == {("ref", "wrong"): pytest.approx(0.3), ("guided ref", "guided wrong"): pytest.approx(0.6)}
    titles = [row.title for row in check_rows(checks)]
    assert len(set(titles)) == len(titles)
    assert any(title.endswith("? guided ref − guided wrong") for title in titles)


def test_without_ground_truth_the_gallery_answers_the_checks() -> None:
    gallery = replace(IDS, kind="ids_gallery", key="ids_gallery_j")
    natural = replace(NATURAL, kind="cos_ref_gallery", key="cos_ref_gallery_j")
    noise = people_and_photos(4) * 0.1
    runs = [
        run(label, {"ids_gallery_j": ids + noise, "ids_ref_j": 0.7 + noise, "cos_ref_gallery_j": 0.6 - noise},
            gallery, TO_REF, natural)
        for label, ids in (("ref", 0.5), ("wrong", 0.3))
    ]  # fmt: skip
    checks = check_runs(runs, [{"main": "ref", "wrong": "wrong"}])
    answers = {check.question.split("?")[0]: check.difference.mean for check in checks}
    assert answers["Does a right reference help more than a wrong one"] == pytest.approx(0.2)
    assert answers["Does it copy the reference (more alike than two photos of the person are)"] == pytest.approx(
        0.1 + 2 * noise.mean()
    )


def test_a_role_or_run_that_is_not_there_is_named() -> None:
    runs = [guided("ref", 0.6, 0.7, 0.6)]
    with pytest.raises(UserError, match="role 'best': expected one of main"):
        check_runs(runs, [{"best": "ref"}])
    with pytest.raises(UserError, match="role wrong=x: no such run; there are: ref"):
        check_runs(runs, [{"wrong": "x"}])


def test_the_mean_of_seeds_is_over_trainings_on_the_pictures_that_all_have() -> None:
    a, b = (run(str(seed), {"ids_j": np.array([seed, 2.0 * seed])}, IDS) for seed in (1, 3))
    assert mean_of_seeds([a, b], "A").values["ids_j"] == {"000": 2.0, "001": 4.0}
    fewer = replace(b, values={"ids_j": {"001": 6.0}})
    assert mean_of_seeds([a, fewer], "A").values["ids_j"] == {"001": 4.0}


def written(folder: Path, values: dict[str, dict[str, float]]) -> Path:
    pairs = [EvaluationPair(name, None, {}, {}, None, "x" if name == "a" else None) for name in ("a", "b")]
    tables = {label: {"ids_j": by_name} for label, by_name in values.items()}
    result = EvaluationResult("t", "", list(values), pairs, [IDS], tables, [], [], [])
    write_tables(result, folder)
    assert [found.values for found in runs_of(result)] == list(tables.values())
    return folder


def test_runs_come_back_from_the_files_of_an_evaluation(tmp_path: Path) -> None:
    folder = written(tmp_path, {"A": {"a": 0.1 + 0.2}, "B": {"a": 0.5, "b": -0.25}})
    a, b = read_runs(folder)
    assert (a.label, b.label) == ("A", "B")
    assert a.values == {"ids_j": {"a": 0.1 + 0.2}}, "every digit"
    assert b.values == {"ids_j": {"a": 0.5, "b": -0.25}}
    assert a.identity == {"a": "x", "b": None}
    assert (a.figures["ids_j"].protocol, a.figures["ids_j"].weights_sha256) == (IDS.protocol, IDS.weights_sha256)
    assert [found.label for found in read_runs(folder / "per_image.csv", {"B": "seed 1"})] == ["seed 1"]
    with pytest.raises(UserError, match="no run 'C'; it has: A, B"):
        read_runs(folder, {"C": "x"})


def test_a_broken_table_is_named_with_its_line(tmp_path: Path) -> None:
    folder = written(tmp_path, {"A": {"a": 0.5, "b": 0.25}})
    table = folder / "per_image.csv"
    table.write_text(table.read_text().replace("0.25", "nan"))
    with pytest.raises(UserError, match=r"per_image\.csv:3: ids_j: found 'nan'"):
        read_runs(folder)
    (folder / "metrics.json").write_text("{")
    with pytest.raises(UserError, match=r"metrics\.json: cannot be read as the figures of an evaluation"):
        read_runs(folder)
