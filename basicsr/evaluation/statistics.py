"""Means with intervals. Photos of one person are not independent, so the bootstrap draws people, not photos.

Shapes: N images; K columns (runs times figures); C clusters (identities); R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PERCENTILES = (5, 10, 50, 90)
# With fewer people even differences that all have one sign come by chance in more than 5 % of the cases: 2^(1-5) = .06
MIN_CLUSTERS = 6
MAX_DRAWS_AT_ONCE = 1 << 22  # 32 MiB of indices, and as much of counts


@dataclass(frozen=True)
class Summary:
    """One figure over N images. `None` where it is undefined: one image, fewer than MIN_CLUSTERS people, infinity."""

    n: int
    num_clusters: int
    mean: float
    sd: float | None  # of the images, N - 1 in the denominator
    ci_low: float | None
    ci_high: float | None
    percentiles: dict[int, float]  # 5 -> value below which 5 % of the images lie


def summarize(
    values: Floats, clusters: Ints, rng: np.random.Generator, num_resamples: int = 2000, level: float = 0.95
) -> Summary:
    """Mean, spread and interval of (N,) values with (N,) cluster numbers 0..C-1; N >= 1."""
    return summarize_columns(values[:, None], clusters, rng, num_resamples, level)[0]


def summarize_columns(
    values: Floats, clusters: Ints, rng: np.random.Generator, num_resamples: int = 2000, level: float = 0.95
) -> list[Summary]:
    """`summarize` of each column of (N, K) values, all with the same draws."""
    num_clusters = int(clusters.max()) + 1
    finite = np.asarray(np.isfinite(values).all(axis=0))  # (K,)
    bounds = np.full((2, values.shape[1]), np.nan)
    if num_clusters >= MIN_CLUSTERS and finite.any():
        means = bootstrap_columns(values[:, finite], clusters, rng, num_resamples)
        bounds[:, finite] = bootstrap_interval(means, num_clusters, level)
    summaries = []
    for column, is_finite, (low, high) in zip(values.T, finite.tolist(), bounds.T, strict=True):
        # "lower" picks a measured value: interpolation next to an infinite PSNR would give NaN
        percentiles = np.percentile(column, PERCENTILES, method="linear" if is_finite else "lower")
        summaries.append(
            Summary(
                n=len(column),
                num_clusters=num_clusters,
                mean=float(column.mean()),
                sd=float(column.std(ddof=1)) if is_finite and len(column) > 1 else None,
                ci_low=None if np.isnan(low) else float(low),
                ci_high=None if np.isnan(high) else float(high),
                percentiles={p: float(value) for p, value in zip(PERCENTILES, percentiles, strict=True)},
            )
        )
    return summaries


def bootstrap_interval(draws: Floats, num_clusters: int, level: float = 0.95) -> Floats:
    """Lower and upper bound (2, ...) of (R, ...) bootstrap means over C clusters.

    Percentiles of the draws alone are too narrow for few clusters (20 people: 92 % instead of 95 %). The expanded
    percentile interval (Hesterberg 2015, "What teachers should know about the bootstrap") takes the tail
    Phi(sqrt(C / (C - 1)) t) with the quantile t of Student's distribution with C - 1 degrees of freedom.
    """
    stretch = np.sqrt(num_clusters / (num_clusters - 1))
    tail = float(ndtr(stretch * stdtrit(num_clusters - 1, (1 - level) / 2)))
    return np.asarray(np.quantile(draws, [tail, 1 - tail], axis=0), np.float64)


def bootstrap_p(draws: Floats, num_clusters: int) -> float:
    """Two-sided p of (R,) bootstrap means against 0: the level at which `bootstrap_interval` begins to cover it.

    Never below 2^(1 - C), the chance that C differences have one sign: no draw can show more than that.
    """
    # + 1: the data as observed count as a draw, so that no p is ever zero
    share = (min(int((draws <= 0).sum()), int((draws >= 0).sum())) + 1) / (len(draws) + 1)
    t = float(ndtri(min(share, 0.5))) / np.sqrt(num_clusters / (num_clusters - 1))
    return float(max(2 * stdtr(num_clusters - 1, t), 2.0 ** (1 - num_clusters)))


def standard_error(draws: Floats, num_clusters: int) -> float:
    """Of a mean over C clusters, from its (R,) bootstrap means, whose own deviation is sqrt((C - 1) / C) too small."""
    return float(draws.std(ddof=1) * np.sqrt(num_clusters / (num_clusters - 1)))


def detectable_difference(error: float, num_clusters: int, level: float, power: float) -> float:
    """Smallest true difference that a two-sided test with that standard error finds with this power (Student's t)."""
    quantiles = stdtrit(num_clusters - 1, (1 + level) / 2) + stdtrit(num_clusters - 1, power)
    return float(quantiles * error)


def bootstrap_weights(num_clusters: int, rng: np.random.Generator, num_resamples: int) -> Iterator[Floats]:
    """Blocks (rows, C), R rows in all: how often each cluster is drawn when C are drawn with replacement."""
    rows = max(1, MAX_DRAWS_AT_ONCE // num_clusters)
    for start in range(0, num_resamples, rows):
        num_rows = min(rows, num_resamples - start)
        drawn = rng.integers(num_clusters, size=(num_rows, num_clusters))
        drawn += np.arange(num_rows)[:, None] * num_clusters  # one histogram for all rows of the block
        counts = np.bincount(drawn.ravel(), minlength=num_rows * num_clusters)
        yield counts.reshape(num_rows, num_clusters).astype(np.float64)


def bootstrap_columns(values: Floats, clusters: Ints, rng: np.random.Generator, num_resamples: int) -> Floats:
    """(R, K) means over the images of C clusters drawn with replacement; every column of (N, K) sees the same draws.

    A draw needs only the sum and the number of images of each cluster, so that all draws of all columns are one product
    of a (R, C) matrix of counts with the (C, K) sums.
    """
    counts = np.bincount(clusters).astype(np.float64)  # (C,)
    sums = np.stack([np.bincount(clusters, weights=column) for column in values.T], axis=1)  # (C, K)
    blocks = bootstrap_weights(len(counts), rng, num_resamples)
    return np.concatenate([weights @ sums / (weights @ counts)[:, None] for weights in blocks])  # (R, K)


def bootstrap_means(values: Floats, clusters: Ints, rng: np.random.Generator, num_resamples: int) -> Floats:
    """(R,) means of (N,) values, see `bootstrap_columns`."""
    return bootstrap_columns(values[:, None], clusters, rng, num_resamples)[:, 0]


def cluster_numbers(identities: Sequence[str | None]) -> Ints:
    """Cluster number 0..C-1 per image; an image without an identity is a cluster of its own."""
    numbers: dict[tuple[str | None, int], int] = {}
    keys = [(identity, -1) if identity is not None else (None, i) for i, identity in enumerate(identities)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
