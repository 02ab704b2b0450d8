"""Intervals: the vectorised bootstrap against a plain loop, clustering, and the cases without an interval."""

from __future__ import annotations

import math

import numpy as np
import pytest

from basicsr.evaluation.statistics import MIN_CLUSTERS, Summary, bootstrap_means, cluster_numbers, summarize
from basicsr.utils.seed import rng_for

VALUES = np.array([0.1, 0.5, 0.9, 0.2, 0.7, 0.4])
CLUSTERS = np.array([0, 0, 1, 2, 2, 2])


def interval(summary: Summary) -> tuple[float, float]:
    assert summary.ci_low is not None
    assert summary.ci_high is not None
    return summary.ci_low, summary.ci_high


def test_bootstrap_means_equal_a_loop_that_draws_people_and_pools_their_photos() -> None:
    means = bootstrap_means(VALUES, CLUSTERS, rng_for(7), num_resamples=50)
    draws = rng_for(7).integers(3, size=(50, 3))
    for mean, drawn in zip(means, draws, strict=True):
        photos = [value for c in drawn for value, own in zip(VALUES, CLUSTERS, strict=True) if own == c]
        assert mean == pytest.approx(sum(photos) / len(photos), rel=1e-12)


def test_drawing_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bootstrap_means(VALUES, CLUSTERS, rng_for(1), num_resamples=40)
    monkeypatch.setattr("basicsr.evaluation.statistics.MAX_DRAWS_AT_ONCE", 7)
    blocks = bootstrap_means(VALUES, CLUSTERS, rng_for(1), num_resamples=40)
    assert np.allclose(blocks, whole, rtol=1e-14)  # a matrix product may round differently at another height


def test_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    covered = 0
    for trial in range(200):
        values = rng_for(3, trial).normal(0.5, 0.1, 80)
        summary = summarize(values, np.arange(80), rng_for(4, trial), num_resamples=300)
        low, high = interval(summary)
        covered += low <= 0.5 <= high
    assert 0.89 <= covered / 200 <= 0.99  # 95 % within 3 standard errors of 200 trials, and the bootstrap's own bias


def test_interval_of_few_people_covers_the_true_mean_about_as_often_as_it_says() -> None:
    covered = plain = 0
    for trial in range(300):
        values = rng_for(6, trial).normal(0.5, 0.1, 8)
        low, high = interval(summarize(values, np.arange(8), rng_for(7, trial), num_resamples=1000))
        covered += low <= 0.5 <= high
        means = bootstrap_means(values, np.arange(8), rng_for(7, trial), num_resamples=1000)
        plain += bool(np.quantile(means, 0.025) <= 0.5 <= np.quantile(means, 0.975))
    assert covered / 300 >= 0.91
    assert plain < covered - 6, "the plain percentiles are too narrow, or this test proves nothing"


def test_interval_over_people_is_wider_than_over_their_repeated_photos() -> None:
    person_values = rng_for(5).normal(0.5, 0.1, 20)
    values, people = np.repeat(person_values, 5), np.repeat(np.arange(20), 5)
    by_people = summarize(values, people, rng_for(0))
    by_photos = summarize(values, np.arange(100), rng_for(0))
    (people_low, people_high), (photos_low, photos_high) = interval(by_people), interval(by_photos)
    assert (people_high - people_low) / (photos_high - photos_low) == pytest.approx(
        math.sqrt(5), rel=0.15
    )  # 5 copies carry no information


def test_summary_has_the_moments_of_numpy() -> None:
    summary = summarize(VALUES, CLUSTERS, rng_for(0))
    assert (summary.n, summary.num_clusters) == (6, 3)
    assert summary.mean == pytest.approx(VALUES.mean())
    assert summary.sd == pytest.approx(np.std(VALUES, ddof=1))
    assert summary.percentiles[50] == pytest.approx(np.median(VALUES))


def test_fewer_than_six_people_have_no_interval_and_one_photo_no_deviation() -> None:
    assert MIN_CLUSTERS == 6
    summary = summarize(np.linspace(0.3, 0.4, 10), np.arange(10) // 2, rng_for(0))
    assert (summary.ci_low, summary.ci_high) == (None, None)
    assert summarize(np.linspace(0.3, 0.4, 12), np.arange(12) // 2, rng_for(0)).ci_low is not None
    assert summarize(np.array([0.3]), np.array([0]), rng_for(0)).sd is None


def test_infinite_values_give_an_infinite_mean_and_never_nan() -> None:
    summary = summarize(np.array([30.0, np.inf]), np.array([0, 1]), rng_for(0))
    assert summary.mean == np.inf
    assert (summary.sd, summary.ci_low) == (None, None)
    assert not any(math.isnan(value) for value in summary.percentiles.values())


def test_a_photo_without_identity_is_a_person_of_its_own() -> None:
    assert cluster_numbers(["a", None, "a", "b", None]).tolist() == [0, 1, 0, 2, 3]
