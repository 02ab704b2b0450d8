"""What a judge's cosine means: genuine and impostor pairs, and the threshold at a false accept rate of 1e-3.

Pairs come from the evaluation set (all photos of its people that no network made) or from a CSV with the columns
a, b, same. Every recogniser has a threshold of its own: cosines of two recognisers are not comparable.

Shapes: M photos; E embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from basicsr.evaluation.results import Calibration
from basicsr.utils.csv_util import read_rows
from basicsr.utils.errors import UserError

Floats = NDArray[np.float32]

FAR = 1e-3
MIN_IMPOSTORS = round(1 / FAR)  # fewer cannot show a rate of 1e-3
MIN_GENUINE = 2
MAX_PHOTOS = 8000  # 32 million pairs; more photos do not move a threshold at 1e-3


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
    numbers = np.array([number for number, _ in photos])
    vectors = np.stack([vector for _, vector in photos])  # (M, E)
    first, second = np.triu_indices(len(photos), 1)
    cosines = (vectors @ vectors.T)[first, second]
    same = numbers[first] == numbers[second]
    source = f"all pairs of {len(photos)} photos of {len(people)} people of the evaluation set"
    return calibrate(judge, source, cosines[same], cosines[~same])


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
        num_genuine=len(genuine),
        num_impostor=len(impostor),
        genuine_mean=float(genuine.mean(dtype=np.float64)),
        genuine_sd=float(genuine.std(dtype=np.float64)),
        impostor_mean=float(impostor.mean(dtype=np.float64)),
        impostor_sd=float(impostor.std(dtype=np.float64)),
        far=FAR,
        threshold=threshold,
        tar=float((genuine > threshold).mean()),
    )


def threshold_at(impostor: Floats, far: float) -> float:
    """The smallest cosine above which at most `far` of the impostor pairs lie."""
    allowed = int(far * len(impostor))
    return float(np.partition(impostor, len(impostor) - 1 - allowed)[len(impostor) - 1 - allowed])


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
