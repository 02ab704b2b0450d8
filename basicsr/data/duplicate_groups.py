"""Groups of near-duplicate photos of a person, for a column of the index: none of a group is a reference of another.

A restorer that is given the ground truth's twin as reference learns to copy (bursts, the same photo from two sources).

Shapes: N photos; E embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from basicsr.data.clustering import members_of
from basicsr.data.similarity import Floats

DUPLICATE_COLUMN = "duplicate_group"  # of the index; empty: no duplicates
DUPLICATE_COSINE = 0.9  # a reference that similar gives the ground truth away


def duplicate_groups(identities: Sequence[str], vectors: Floats, cosine: float = DUPLICATE_COSINE) -> list[str]:
    """A text for each photo: photos of one person that are chained by pairs at least that similar share one.

    Args:
        identities: person of each photo; photos without a name are in no group.
        vectors: embeddings (N, E), unit length; rows of zeros are similar to nothing.
    Returns:
        `name#0`, `name#1`, ... for groups of two and more, else an empty text.
    """
    groups = [""] * len(identities)
    _, people = np.unique(np.asarray(identities), return_inverse=True)
    for members in members_of(people):
        name = identities[members[0]]
        if not name or len(members) < 2:
            continue
        near = coo_array(vectors[members] @ vectors[members].T >= cosine)
        labels = connected_components(near, directed=False)[1]
        several = [group for group in members_of(labels) if len(group) > 1]
        for number, group in enumerate(several):
            for place in members[group]:
                groups[place] = f"{name}#{number}"
    return groups
