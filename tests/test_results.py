"""What an evaluation holds: runs are compared on the same pictures, with the same bootstrap draws."""

from __future__ import annotations

from pathlib import Path

import pytest

from basicsr.evaluation.results import EvaluationPair, EvaluationResult, Failure, Figure

PSNR = Figure("psnr", "PSNR", "higher", "whole image", 2, kind="pixel")
LPIPS = Figure("lpips", "LPIPS-alex", "lower", "whole image", 4, kind="perceptual")
COPY = Figure("ids_ref", "IDS to reference", "neither", "cosine", 3, kind="ids_ref")


def result_of(
    values: dict[str, dict[str, dict[str, float]]], names: str = "abcd", people: str = ""
) -> EvaluationResult:
    pairs = [
        EvaluationPair(name, Path(f"{name}.png"), {}, {}, None, people[i] if people else None)
        for i, name in enumerate(names)
    ]
    figures = [figure for figure in (PSNR, LPIPS, COPY) if any(figure.key in by_key for by_key in values.values())]
    return EvaluationResult("t", "", list(values), pairs, figures, values, [], [], [], num_resamples=200)


def test_figures_are_over_the_pictures_that_every_run_has() -> None:
    result = result_of({"x": {"psnr": {"a": 1.0, "b": 2.0, "c": 9.0}}, "y": {"psnr": {"b": 4.0, "a": 3.0}}})
    assert result.common_names("psnr") == ["a", "b"]
    assert result.values_of("y", "psnr").tolist() == [3.0, 4.0]
    assert result.summaries["x", "psnr"].mean == 1.5


def test_runs_that_differ_by_a_constant_have_intervals_that_differ_by_it() -> None:
    values = {name: float(i * i) for i, name in enumerate("abcdefgh")}
    shifted = {name: value + 10 for name, value in values.items()}
    result = result_of({"x": {"psnr": values}, "y": {"psnr": shifted}}, names="abcdefgh")
    x, y = result.summaries["x", "psnr"], result.summaries["y", "psnr"]
    assert x.ci_low is not None
    assert x.ci_high is not None
    assert [y.ci_low, y.ci_high] == pytest.approx([x.ci_low + 10, x.ci_high + 10])


def test_best_run_follows_the_direction_of_the_figure() -> None:
    by_key = {"psnr": {"a": 1.0}, "lpips": {"a": 0.1}, "ids_ref": {"a": 0.1}}
    more = {"psnr": {"a": 2.0}, "lpips": {"a": 0.2}, "ids_ref": {"a": 0.2}}
    result = result_of({"x": by_key, "y": more}, names="a")
    assert [result.best_run(figure) for figure in (PSNR, LPIPS, COPY)] == ["y", "x", None]


def test_intervals_are_over_people_when_identities_are_known() -> None:
    values = {"x": {"psnr": {name: float(i) for i, name in enumerate("abcd")}}}
    assert result_of(values, people="1122").summaries["x", "psnr"].num_clusters == 2
    assert result_of(values).summaries["x", "psnr"].num_clusters == 4
    assert result_of(values, people="1122").has_identities


def test_a_figure_without_common_pictures_has_no_summary() -> None:
    result = result_of({"x": {"psnr": {"a": 1.0}}, "y": {"psnr": {"b": 1.0}}})
    assert result.summaries == {}
    assert result.best_run(PSNR) is None


def test_a_failure_reads_as_name_run_and_reason() -> None:
    assert str(Failure("a", "x", "cut off")) == "a [x]: cut off"
    assert str(Failure("a", None, "cut off")) == "a: cut off"
