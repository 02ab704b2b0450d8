"""Faces -> people, from embeddings alone, and how well that agrees with names.

Photos more similar than a threshold are joined; what is joined, directly or through others, is a component. One wrong
link joins two people, and links chain, so no cluster may be wider than a maximum diameter: a component that is gets
split where average linkage joined its parts last, until no part is too wide.

Shapes: N photos; E embedding; n photos of one component.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import linkage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import squareform

from basicsr.data.similarity import Floats, Ints, Pairs

MAX_DENSE = 4000  # photos of a component whose distances are looked at all together: 64 MB of float32
THRESHOLD_STEP = 0.02  # by which the threshold rises inside a larger component, until it falls apart


class Agreement(NamedTuple):
    """Clusters against names: of all pairs of photos, and per photo (B-cubed; Amigo et al. 2009)."""

    precision: float  # share of the pairs in one cluster that have one name
    recall: float  # share of the pairs with one name that are in one cluster
    bcubed_precision: float  # mean share of a photo's cluster that has its name
    bcubed_recall: float  # mean share of a photo's namesakes that are in its cluster
    num_photos: int  # with a name

    @property
    def f1(self) -> float:
        """Harmonic mean of pairwise precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def cluster_faces(vectors: Floats, pairs: Pairs, threshold: float, max_diameter: float) -> Ints:
    """Number of each photo's cluster (N,); 0 is the largest.

    Args:
        vectors: (N, E), unit length.
        pairs: from `similar_pairs` within `vectors` at this threshold or a lower one.
        max_diameter: largest 1 - cosine that two photos of a cluster may have.
    """
    labels = _components(len(vectors), pairs.where(pairs.cosine >= threshold))
    components = members_of(labels)
    next_label = len(components)
    for members in components:
        parts = _bounded(vectors, pairs, members, threshold, max_diameter)
        for part in parts[1:]:
            labels[part] = next_label
            next_label += 1
    return _by_size(labels)


def members_of(labels: Ints) -> list[Ints]:
    """Places of each label, in the order of the labels; the places rise."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _components(num_nodes: int, pairs: Pairs) -> Ints:
    """Label of each node's connected component (num_nodes,)."""
    edges = coo_array((np.ones(len(pairs.first), np.bool_), (pairs.first, pairs.second)), (num_nodes, num_nodes))
    return np.asarray(connected_components(edges, directed=False)[1], np.int64)


def _bounded(vectors: Floats, pairs: Pairs, members: Ints, threshold: float, max_diameter: float) -> list[Ints]:
    """The photos of a component in parts no wider than `max_diameter`."""
    if len(members) == 1:
        return [members]
    if len(members) <= MAX_DENSE:
        return [members[part] for part in split_wide(vectors[members], max_diameter)]
    inner = pairs.where(np.isin(pairs.first, members) & (pairs.cosine >= threshold + THRESHOLD_STEP))
    place = np.searchsorted(members, np.stack([inner.first, inner.second]))  # members are sorted
    labels = _components(len(members), Pairs(place[0], place[1], inner.cosine))
    parts: list[Ints] = []
    for part in members_of(labels):
        parts += _bounded(vectors, inner, members[part], threshold + THRESHOLD_STEP, max_diameter)
    return parts


def split_wide(vectors: Floats, max_diameter: float) -> list[Ints]:
    """Rows (n, E) in parts whose diameters, the largest 1 - cosine within, are at most `max_diameter`."""
    distances = np.maximum(1 - vectors @ vectors.T, 0)  # (n, n)
    np.fill_diagonal(distances, 0)
    if distances.max() <= max_diameter:
        return [np.arange(len(vectors))]
    merges = linkage(squareform(distances, checks=False), "average")  # rows: the two nodes joined, distance, size
    nodes: list[Ints] = [np.array([row]) for row in range(len(vectors))]
    diameters = [0.0] * len(vectors)
    children: list[tuple[int, int]] = [(-1, -1)] * len(vectors)
    for left, right in merges[:, :2].astype(np.int64):
        across = distances[np.ix_(nodes[left], nodes[right])].max()
        diameters.append(max(float(across), diameters[left], diameters[right]))
        nodes.append(np.concatenate([nodes[left], nodes[right]]))
        children.append((int(left), int(right)))
    parts, waiting = [], [len(nodes) - 1]
    while waiting:
        node = waiting.pop()
        if diameters[node] <= max_diameter:
            parts.append(np.sort(nodes[node]))
        else:
            waiting += children[node]
    return parts


def _by_size(labels: Ints) -> Ints:
    """The same clusters, numbered from the largest; equal ones in the order of their first photos."""
    _, first, codes, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), np.int64)
    rank[np.lexsort((first, -counts))] = np.arange(len(counts))
    return rank[codes]


def agreement(clusters: Ints, names: NDArray[np.str_]) -> Agreement:
    """How far clusters (N,) and names (N,) group the same photos; photos without a name are left out."""
    named = names != ""
    _, people = np.unique(names[named], return_inverse=True)
    _, groups = np.unique(clusters[named], return_inverse=True)
    num_photos = int(named.sum())
    cells, in_cell = np.unique(groups * (people.max(initial=0) + 1) + people, return_counts=True)
    in_group, of_person = np.bincount(groups), np.bincount(people)
    group_of_cell, person_of_cell = np.divmod(cells, people.max(initial=0) + 1)
    both = _num_pairs(in_cell)
    return Agreement(
        _share(both, _num_pairs(in_group)),
        _share(both, _num_pairs(of_person)),
        _share(float((in_cell**2 / in_group[group_of_cell]).sum()), num_photos),
        _share(float((in_cell**2 / of_person[person_of_cell]).sum()), num_photos),
        num_photos,
    )


def _num_pairs(counts: Ints) -> float:
    return float((counts * (counts - 1) // 2).sum())


def _share(part: float, whole: float) -> float:
    """part / whole; 1 of nothing, since nothing was got wrong."""
    return part / whole if whole else 1.0
