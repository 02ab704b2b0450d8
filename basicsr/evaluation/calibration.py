"""What a judge's cosine means: genuine and impostor pairs, and the threshold at a false accept rate of 1e-3.

Pairs come from the evaluation set (all photos of its people that no network made) or from a CSV with the columns
a, b, same. Every recogniser has a threshold of its own: cosines of two recognisers are not comparable.

Shapes: M photos; E embedding; I impostor pairs; P people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from basicsr.evaluation.results import Calibration
from basicsr.evaluation.statistics import MIN_CLUSTERS, bootstrap_weights
from basicsr.utils.csv_util import read_rows
from basicsr.utils.errors import UserError
from basicsr.utils.seed import rng_for

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

FAR = 1e-3
MIN_IMPOSTORS = round(1 / FAR)  # fewer cannot show a rate of 1e-3
MIN_GENUINE = 2
MAX_PHOTOS = 8000  # 32 million pairs; more photos do not move a threshold at 1e-3
NUM_DRAWS = 500  # of people, for the interval of a threshold
TAIL_KEPT = 20  # times the pairs that lie above the threshold: no draw moves it further down


def calibrate_people(judge: str, people: Mapping[str, Sequence[Floats]]) -> Calibration | str:
    """From all pairs of photos of a set.

    Args:
        people: unit vectors (E,) of the different photos of each person.
    Returns:
        The calibration, or why there is none.
    """
    photos = [(i, vector) for i, vectors in enumerate(people.values()) for vector in vectors]
    step = max(1, -(-len(photos) // MAX_PHOTOS))
    photos = photos[::step]
    if len(photos) < 2:
        return "no photos with an identity: give --identities, a column identity in --pairs, or --calibration_pairs CSV"
    numbers = np.array([number for number, _ in photos], np.int32)
    vectors = np.stack([vector for _, vector in photos])  # (M, E)
    first, second = np.triu_indices(len(photos), 1)
    cosines = (vectors @ vectors.T)[first, second]
    one, other = numbers[first], numbers[second]
    same = one == other
    source = f"all pairs of {len(photos)} photos of {len(people)} people of the evaluation set"
    found = calibrate(judge, source, cosines[same], cosines[~same])
    if isinstance(found, str):
        return found
    low, high = threshold_interval(cosines[~same], one[~same], other[~same], np.bincount(numbers))
    return replace(found, num_people=len(people), threshold_low=low, threshold_high=high)


def calibrate(judge: str, source: str, genuine: Floats, impostor: Floats) -> Calibration | str:
    """From cosines of pairs of one person and of two; or why they are too few."""
    if len(impostor) < MIN_IMPOSTORS or len(genuine) < MIN_GENUINE:
        return (
            f"{source}: {len(genuine)} pairs of one person and {len(impostor)} of two; at least {MIN_GENUINE} and "
            f"{MIN_IMPOSTORS} are needed. Give --calibration_pairs CSV"
        )
    threshold = threshold_at(impostor, FAR)
    return Calibration(
        judge=judge,
        source=source,
        num_people=None,
        num_genuine=len(genuine),
        num_impostor=len(impostor),
        genuine_mean=float(genuine.mean(dtype=np.float64)),
        genuine_sd=float(genuine.std(dtype=np.float64)),
        impostor_mean=float(impostor.mean(dtype=np.float64)),
        impostor_sd=float(impostor.std(dtype=np.float64)),
        far=FAR,
        threshold=threshold,
        threshold_low=None,
        threshold_high=None,
        tar=float((genuine > threshold).mean()),
    )


def threshold_at(impostor: Floats, far: float) -> float:
    """The smallest cosine above which at most `far` of the impostor pairs lie."""
    allowed = int(far * len(impostor))
    return float(np.partition(impostor, len(impostor) - 1 - allowed)[len(impostor) - 1 - allowed])


def threshold_interval(
    impostor: Floats, one: Ints, other: Ints, num_photos: NDArray[np.int64]
) -> tuple[float, float] | tuple[None, None]:
    """95 % interval of `threshold_at` over people; (None, None) for fewer than MIN_CLUSTERS.

    Pairs that share a person are not independent, so people are drawn with replacement: a pair counts as often as the
    product of its two people. Only the upper tail of the cosines can matter.

    Args:
        impostor: (I,) cosines; `one`, `other`: (I,) numbers of the two people.
        num_photos: (P,) photos of each person.
    """
    if len(num_photos) < MIN_CLUSTERS:
        return None, None
    tail = np.argsort(-impostor)[: max(TAIL_KEPT, int(TAIL_KEPT * FAR * len(impostor)))]
    values, one, other = impostor[tail], one[tail], other[tail]
    found = []
    for weights in bootstrap_weights(len(num_photos), rng_for(0), NUM_DRAWS):
        for drawn in weights:
            photos = drawn * num_photos
            pairs = (photos.sum() ** 2 - (photos**2).sum()) / 2
            passed = np.cumsum(drawn[one] * drawn[other])
            found.append(values[min(int(np.searchsorted(passed, FAR * pairs, side="right")), len(values) - 1)])
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def read_calibration_pairs(table: Path) -> list[tuple[Path, Path, bool]]:
    """Rows a, b, same (1 or 0); paths relative to the CSV.

    Raises:
        UserError: broken, or `same` is neither.
    """
    pairs = []
    for line, row in read_rows(table, required=("a", "b", "same")):
        if row["same"] not in ("0", "1"):
            raise UserError(f"{table}:{line}: same is '{row['same']}'; expected 1 (one person) or 0 (two)")
        pairs.append((table.parent / row["a"], table.parent / row["b"], row["same"] == "1"))
    return pairs
