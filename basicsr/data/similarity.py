"""Similar rows among many: products of blocks, so that no N x N matrix is ever in memory.

Rows are unit vectors: embeddings, or hashes of +-1 bits divided by the square root of their number.

Shapes: N, M rows; E width of a row; P pairs found.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from basicsr.utils.cli import progress
from basicsr.utils.errors import UserError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

BLOCK = 2048  # rows; a block of cosines takes 16 MB
MAX_PAIRS = 50_000_000  # 0.8 GB; more come only from a threshold that joins strangers
SAMPLED_PAIRS = 400_000  # for the spread of strangers
LOWER = 0.1587  # quantile one standard deviation below the median of a normal distribution


class Pairs(NamedTuple):
    """Similar rows, sorted by `first`, then `second`."""

    first: Ints  # (P,)
    second: Ints  # (P,)
    cosine: Floats  # (P,)

    def where(self, kept: NDArray[np.bool_]) -> Pairs:
        """Some of them."""
        return Pairs(self.first[kept], self.second[kept], self.cosine[kept])


def similar_pairs(rows: Floats, others: Floats | None, threshold: float, desc: str = "compare") -> Pairs:
    """Pairs with a cosine of at least `threshold`.

    Args:
        rows: (N, E), unit length; rows of zeros are similar to nothing if the threshold is above 0.
        others: (M, E) to compare with; None: pairs within `rows`, each once, `first` < `second`.
    Raises:
        UserError: more than MAX_PAIRS are.
    """
    against = rows if others is None else others
    tiles = list(_tiles(len(rows), len(against), within=others is None))
    found: list[tuple[Ints, Ints, Floats]] = []
    num_pairs = 0
    for top, left in progress(tiles, desc=desc):
        cosines = rows[top : top + BLOCK] @ against[left : left + BLOCK].T  # (<= BLOCK, <= BLOCK)
        near = cosines >= threshold
        if others is None and top == left:
            near = np.triu(near, 1)
        i, j = np.nonzero(near)
        num_pairs += len(i)
        if num_pairs > MAX_PAIRS:
            raise UserError(
                f"threshold {threshold:g}: more than {MAX_PAIRS} of {len(rows)} x {len(against)} pairs are that "
                "similar. Raise it; strangers are joined."
            )
        found.append((i + top, j + left, cosines[i, j]))
    if not found:
        return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    first, second, cosine = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((second, first))
    return Pairs(first[order], second[order], cosine[order])


def _tiles(num_rows: int, num_others: int, within: bool) -> Iterator[tuple[int, int]]:
    """Upper left corners of the blocks; within one set those on and above the diagonal."""
    for top in range(0, num_rows, BLOCK):
        for left in range(top if within else 0, num_others, BLOCK):
            yield top, left


def stranger_threshold(rows: Floats, others: Floats | None, far: float, rng: np.random.Generator) -> float:
    """Cosine that a share `far` of the pairs of strangers should reach, from pairs drawn at random.

    A normal distribution with the median of the drawn cosines and the spread of their lower half: pairs of one person
    lie at the upper end and move neither, as long as they are rare. The upper end of real strangers is a little heavier
    than normal, so the share that is reached is larger than `far` (docs/data.md has figures).

    Args:
        far: false accept rate, of pairs.
    """
    against = rows if others is None else others
    i = rng.integers(len(rows), size=SAMPLED_PAIRS)
    j = rng.integers(len(against), size=SAMPLED_PAIRS)
    if others is None:
        i, j = i[i != j], j[i != j]
    cosines = np.concatenate(
        [np.einsum("pe,pe->p", rows[i[s : s + BLOCK]], against[j[s : s + BLOCK]]) for s in range(0, len(i), BLOCK)]
        or [np.zeros(0, np.float32)]
    )
    if len(cosines) == 0:
        raise UserError("one picture alone has no strangers to compare with; give --threshold.")
    middle, low = np.quantile(cosines, [0.5, LOWER])
    return float(min(middle + NormalDist().inv_cdf(far) * (low - middle), 1.0))


def cosines_by_identity(rows: Floats, identities: Sequence[Hashable]) -> list[Floats]:
    """Cosines of all pairs of rows of one identity; identities with a single row are left out.

    Args:
        rows: (N, E), unit length.
        identities: of each row, N.
    Returns:
        For each identity with n > 1 rows its n (n - 1) / 2 cosines, identities in the order of their first row.
    """
    members: dict[Hashable, list[int]] = {}
    for row, identity in enumerate(identities):
        members.setdefault(identity, []).append(row)
    grams = (rows[numbers] @ rows[numbers].T for numbers in members.values() if len(numbers) > 1)  # (n, n)
    return [gram[np.triu_indices(len(gram), 1)] for gram in grams]
