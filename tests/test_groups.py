"""The judge by slice, the interval of a threshold, and the overfit gap."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import drawn_people
from test_evaluate import save_judge
from test_evaluate_sets import cosines, faces, judged

from basicsr.evaluation import Sources, analyse, write_report, write_tables
from basicsr.evaluation.calibration import calibrate_people, threshold_at, threshold_interval
from basicsr.evaluation.results import Calibration
from basicsr.metrics.identity_metric import IdentityMetric
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import img2tensor, imread
from basicsr.utils.seed import rng_for

MANY = tuple(f"{i:03d}" for i in range(104))


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_judge(tmp_path_factory.mktemp("weights") / "judge.safetensors", seed=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_judge(tmp_path_factory.mktemp("weights") / "train.safetensors", seed=1)


def test_the_interval_of_a_threshold_is_that_of_a_loop_that_draws_people(rng: np.random.Generator) -> None:
    people = drawn_people(rng, 30, 0.5)
    found = calibrate_people("j", people)
    assert isinstance(found, Calibration)
    vectors = np.stack([vector for photos in people.values() for vector in photos])
    person = np.arange(60) // 2
    cosines = vectors @ vectors.T
    loop = []
    for drawn in rng_for(0).integers(30, size=(500, 30)):
        copies = np.concatenate([np.flatnonzero(person == number) for number in drawn])
        first, second = np.triu_indices(len(copies), 1)
        first, second = copies[first], copies[second]
        loop.append(threshold_at(cosines[first, second][person[first] != person[second]], 1e-3))
    expected = np.quantile(loop, [0.025, 0.975])
    assert [found.threshold_low, found.threshold_high] == pytest.approx(expected, abs=1e-6)
    assert expected[0] <= found.threshold <= expected[1]
    assert expected[1] - expected[0] > 0.02, "1740 pairs of 30 people do not fix a rate of 1e-3"


def test_few_people_have_no_interval_of_a_threshold() -> None:
    one, other = np.array([0, 1], np.int32), np.array([2, 3], np.int32)
    assert threshold_interval(np.array([0.1, 0.2], np.float32), one, other, np.ones(5, np.int64)) == (None, None)


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """104 pictures of 52 people in two groups, two runs."""
    folder = tmp_path_factory.mktemp("slices")
    lines = [f"gt/{name}.png,p{i // 2},{'north' if i < 52 else 'south'}" for i, name in enumerate(MANY)]
    (folder / "index.csv").write_text("path,identity,group\n" + "\n".join(lines) + "\n")
    gt = faces(folder / "gt", 1, MANY)
    runs = {name: faces(folder / name, seed, MANY) for name, seed in (("none", 2), ("ref", 3))}
    return Sources(runs, gt, identities=folder / "index.csv")


def test_a_slice_is_set_against_pairs_of_its_own_people(slices: Sources, judge: Path, tmp_path: Path) -> None:
    result = judged(slices, judge, metrics=["ids"])
    analysis = analyse(result, num_resamples=200)
    (table,) = analysis.groups
    assert (table.column, table.judge, [row.value for row in table.rows]) == ("group", "judge", ["north", "south"])
    north = table.rows[0].calibration
    embed = IdentityMetric(str(judge)).recognizer
    assert slices.gt is not None
    pictures = torch.stack([img2tensor(imread(slices.gt / f"{name}.png")) for name in MANY[:52]])
    vectors = embed(pictures).embedding.numpy()
    inside = vectors @ vectors.T
    person = np.arange(52) // 2
    upper = np.triu(np.ones((52, 52), bool), 1)
    impostor = inside[upper & (person[:, None] != person)]
    genuine = inside[upper & (person[:, None] == person)]
    assert (north.num_impostor, north.num_genuine) == (len(impostor), len(genuine)) == (52 * 51 // 2 - 26, 26)
    assert north.threshold == pytest.approx(threshold_at(impostor.astype(np.float32), 1e-3), abs=1e-5)
    ids = np.array([result.values["ref"]["ids_judge"][name] for name in MANY[:52]])
    assert table.rows[0].missed["ref"].mean == pytest.approx((ids <= north.threshold).mean())
    assert [north.impostor_mean, north.genuine_mean] == pytest.approx([impostor.mean(), genuine.mean()], abs=1e-5)
    normalized = (ids.mean() - north.impostor_mean) / (north.genuine_mean - north.impostor_mean)
    assert table.rows[0].normalized["ref"].mean == pytest.approx(normalized)
    write_report(result, tmp_path, analysis=analysis)
    for file in ("report.html", "report.md"):
        assert "group: judge calibrated on each slice alone" in (tmp_path / file).read_text()
    assert (tmp_path / "grid_group.png").is_file()


def test_a_slice_of_few_pairs_is_not_calibrated_and_the_reason_is_kept(slices: Sources, judge: Path) -> None:
    assert slices.identities is not None
    few = slices.identities.with_name("few.csv")
    few.write_text("path,identity,group\n" + "".join(f"gt/{n}.png,p{i // 2},g{i % 8}\n" for i, n in enumerate(MANY)))
    result = judged(replace(slices, identities=few), judge, metrics=["ids"])
    assert len(result.group_calibrations) == 8
    assert all("78 of two" in str(group.calibration) for group in result.group_calibrations)
    assert analyse(result, num_resamples=200).groups == []


def test_the_gap_is_what_the_recogniser_of_the_training_sees_more_than_the_judge(
    tmp_path: Path, judge: Path, trained: Path
) -> None:
    run, gt = faces(tmp_path / "run", 1), faces(tmp_path / "gt", 2)
    result = judged(Sources({"run": run, "again": gt}, gt), judge, trained_with=[trained])
    seen, ids = cosines(trained, run, gt), cosines(judge, run, gt)
    assert np.allclose(result.values_of("run", "ids_trained_train"), seen, atol=1e-6)
    assert np.allclose(result.values_of("run", "gap_train_judge"), seen - ids, atol=1e-6)
    assert np.allclose(result.values_of("again", "gap_train_judge"), 0, atol=1e-6)
    (figure,) = result.figures_of_kind("ids_trained")
    assert "no evidence" in figure.label
    assert figure.better == "neither", "it ranks nothing"
    assert result.best_run(figure) is None
    assert result.figures[-2:] == [figure, *result.figures_of_kind("gap")], "below the judges"


def test_the_gap_is_compared_with_that_of_the_baseline(slices: Sources, judge: Path, trained: Path) -> None:
    result = judged(slices, judge, metrics=["ids", "ids_trained"], trained_with=[trained])
    analysis = analyse(result, baseline="none", num_resamples=500)
    (check,) = analysis.overfit
    by_run = {run: result.values_of(run, "gap_train_judge") for run in result.runs}
    assert check.difference.mean == pytest.approx((by_run["ref"] - by_run["none"]).mean())
    assert check.difference.p_holm == check.difference.p, "a family of its own"
    keys = {difference.contrast.key for difference in analysis.differences}
    assert keys == {"ids_judge", "miss_judge"}, "what was trained with is not among the comparisons"


def test_without_the_file_of_the_training_the_gap_says_what_it_needs(tmp_path: Path, judge: Path) -> None:
    run, gt = faces(tmp_path / "run", 1), faces(tmp_path / "gt", 2)
    result = judged(Sources({"run": run}, gt), judge, metrics=["ids", "ids_trained"])
    assert [str(item.reason) for item in result.unavailable if item.label == "Overfit gap"] == [
        "needs the weights file of the recogniser of the training: --trained_with FILE"
    ]
    with pytest.raises(UserError, match="needs ground truth"):
        judged(Sources({"run": run}, lq=gt), judge, metrics=["ids_trained"])


def test_the_tables_hold_groups_and_gaps(slices: Sources, judge: Path, trained: Path, tmp_path: Path) -> None:
    import json

    result = judged(slices, judge, metrics=["ids", "ids_trained"], trained_with=[trained])
    write_tables(result, tmp_path, analyse(result, num_resamples=200))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert [(group["column"], group["value"]) for group in metrics["groups"]] == [
        ("group", "north"),
        ("group", "south"),
    ]
    assert metrics["overfit"][0]["key"] == "gap_train_judge"
    assert {"threshold_low", "threshold_high", "num_people"} <= metrics["calibrations"][0].keys()
    with (tmp_path / "per_image.csv").open() as file:
        assert "gap_train_judge" in next(csv.reader(file))
