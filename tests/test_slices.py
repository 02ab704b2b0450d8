"""Slices by a column, ranges of numbers, and the sweep of w by the names of runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from basicsr.evaluation.analysis import sweep_points
from basicsr.evaluation.results import EvaluationPair, EvaluationResult, Figure
from basicsr.evaluation.slices import group_by, make_slices
from basicsr.utils.errors import UserError

IDS = Figure("ids_j", "IDS (j)", "higher", "cosine", 3, "ids", "j")


def result_of(attributes: list[dict[str, str]]) -> EvaluationResult:
    names = [f"p{i:02d}" for i in range(len(attributes))]
    pairs = [
        EvaluationPair(name, Path(name), {}, {}, None, f"id{i // 2}", attributes=own)
        for i, (name, own) in enumerate(zip(names, attributes, strict=True))
    ]
    values = {"A": {"ids_j": {name: i / 10 for i, name in enumerate(names)}}}
    return EvaluationResult("t", "", ["A"], pairs, [IDS], values, [], [], [])


def test_a_class_gives_a_row_for_each_value_with_the_mean_of_its_pictures() -> None:
    result = result_of([{"eyeglasses": str(i % 2)} for i in range(8)])
    (one,) = make_slices(result)
    assert [row.value for row in one.rows] == ["0", "1"]
    assert [row.summaries["A", "ids_j"].mean for row in one.rows] == pytest.approx([0.3, 0.4])
    assert [(row.num_people, len(row.names)) for row in one.rows] == [(4, 4), (4, 4)]


def test_angles_are_put_into_fixed_ranges_by_their_size() -> None:
    angles = [-70.0, -31, -14, -1, 0, 14.9, 15, 44, 61, 90]
    groups = group_by(result_of([{"yaw": str(angle)} for angle in angles]), "yaw")
    assert {label: len(names) for label, names in groups.items()} == {
        "below 15°": 4, "15 to 30°": 1, "30 to 60°": 2, "60° and more": 3,
    }  # fmt: skip


def test_other_measurements_are_cut_into_thirds() -> None:
    groups = group_by(result_of([{"quality": str(q)} for q in np.linspace(0, 1, 12)]), "quality")
    assert [len(names) for names in groups.values()] == [4, 4, 4]


def test_names_and_columns_with_one_value_give_no_slice_unless_asked_for() -> None:
    result = result_of([{"file": f"name {i}", "set": "x"} for i in range(14)])
    assert make_slices(result) == []
    assert [row.value for row in make_slices(result, ["set"])[0].rows] == ["x"]
    with pytest.raises(UserError, match="slice 'hat': no picture has it; there are: file, set"):
        make_slices(result, ["hat"])


def test_runs_that_differ_in_w_alone_make_a_sweep_in_its_order() -> None:
    points = sweep_points(["D w=1", "D w=0.5", "A w=0", "blind"])
    assert [(point.family, point.w) for point in points] == [("D", 0.5), ("D", 1.0)]
