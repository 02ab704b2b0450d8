"""Means with intervals. Photos of one person are not independent, so the bootstrap draws people, not photos.

Shapes: N images; C clusters (identities); R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PERCENTILES = (5, 10, 50, 90)
MAX_DRAWS_AT_ONCE = 1 << 22  # 32 MiB of indices


@dataclass(frozen=True)
class Summary:
    """One figure over N images. `None` where it is undefined: one image, one identity, or infinite values."""

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
    num_clusters = int(clusters.max()) + 1
    finite = bool(np.isfinite(values).all())
    low: float | None = None
    high: float | None = None
    if finite and num_clusters > 1:
        means = bootstrap_means(values, clusters, rng, num_resamples)
        low, high = (float(v) for v in np.quantile(means, [(1 - level) / 2, (1 + level) / 2]))
    return Summary(
        n=len(values),
        num_clusters=num_clusters,
        mean=float(values.mean()),
        sd=float(values.std(ddof=1)) if finite and len(values) > 1 else None,
        ci_low=low,
        ci_high=high,
        # "lower" picks a measured value: interpolation next to an infinite PSNR would give NaN
        percentiles={p: float(np.percentile(values, p, method="linear" if finite else "lower")) for p in PERCENTILES},
    )


def bootstrap_means(values: Floats, clusters: Ints, rng: np.random.Generator, num_resamples: int) -> Floats:
    """(R,) means over the images of C clusters drawn with replacement, the same draws for the same `rng` state."""
    sums = np.bincount(clusters, weights=values)  # (C,)
    counts = np.bincount(clusters).astype(np.float64)  # (C,)
    num_clusters = len(sums)
    means = np.empty(num_resamples)
    rows = max(1, MAX_DRAWS_AT_ONCE // num_clusters)
    for start in range(0, num_resamples, rows):
        stop = min(start + rows, num_resamples)
        drawn = rng.integers(num_clusters, size=(stop - start, num_clusters))  # (rows, C)
        means[start:stop] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return means


def cluster_numbers(identities: Sequence[str | None]) -> Ints:
    """Cluster number 0..C-1 per image; an image without an identity is a cluster of its own."""
    numbers: dict[tuple[str | None, int], int] = {}
    keys = [(identity, -1) if identity is not None else (None, i) for i, identity in enumerate(identities)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
