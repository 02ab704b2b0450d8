"""Clusters: what is joined, what is split, and the figures of agreement against plain loops over all pairs."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from basicsr.data import clustering
from basicsr.data.clustering import agreement, cluster_faces, split_wide
from basicsr.data.similarity import similar_pairs


def people(rng: np.random.Generator, photos: list[int], spread: float = 0.03) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows around a direction per person, and who each is, shuffled."""
    middles = rng.normal(size=(len(photos), 64))
    middles /= np.linalg.norm(middles, axis=1, keepdims=True)
    who = rng.permutation(np.repeat(np.arange(len(photos)), photos))
    rows = middles[who] + rng.normal(size=(len(who), 64)) * spread
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), who


def chain(num: int, step_degrees: float) -> np.ndarray:
    """Points on a circle: each is near its neighbours, the ends are far apart."""
    angles = np.radians(np.arange(num) * step_degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def run(vectors: np.ndarray, threshold: float, max_diameter: float = 2.0) -> np.ndarray:
    return cluster_faces(vectors, similar_pairs(vectors, None, threshold), threshold, max_diameter)


def test_well_separated_people_are_found_and_the_largest_comes_first(rng):
    vectors, who = people(rng, [3, 1, 7, 5, 1])
    clusters = run(vectors, 0.6, 0.6)
    found = agreement(clusters, who.astype(str))
    assert (found.precision, found.recall) == (1.0, 1.0)
    assert np.bincount(clusters).tolist() == [7, 5, 3, 1, 1]
    assert set(who[clusters == 0]) == {2}


def test_without_a_bound_a_chain_is_one_cluster():
    assert run(chain(13, 15), np.cos(np.radians(16))).max() == 0


def test_no_cluster_is_wider_than_the_bound():
    vectors = chain(13, 15)
    clusters = run(vectors, np.cos(np.radians(16)), 0.3)
    for cluster in range(clusters.max() + 1):
        members = vectors[clusters == cluster]
        assert (1 - members @ members.T).max() <= 0.3
    assert 13 > clusters.max() + 1 > 1


def test_a_bridge_between_two_people_is_cut_and_their_photos_stay_together(rng):
    vectors, who = people(rng, [6, 6])
    middle = vectors[who == 0].mean(0) + vectors[who == 1].mean(0)
    bridged = np.vstack([vectors, middle / np.linalg.norm(middle)]).astype(np.float32)
    assert run(bridged, 0.5).max() == 0
    clusters = run(bridged, 0.5, 0.7)[:-1]
    for person in (0, 1):
        assert len(set(clusters[who == person])) == 1
    assert set(clusters[who == 0]) != set(clusters[who == 1])


def test_a_component_too_large_for_one_matrix_is_split_all_the_same(rng, monkeypatch):
    vectors, who = people(rng, [6, 6, 6])
    bridges = [vectors[who == a].mean(0) + vectors[who == b].mean(0) for a, b in ((0, 1), (1, 2))]
    bridged = np.vstack([vectors, [b / np.linalg.norm(b) for b in bridges]]).astype(np.float32)
    monkeypatch.setattr(clustering, "MAX_DENSE", 8)
    clusters = run(bridged, 0.5, 0.7)
    assert agreement(clusters[:-2], who.astype(str)).precision == 1.0
    assert agreement(clusters[:-2], who.astype(str)).recall > 0.9


def test_a_set_that_is_narrow_enough_stays_whole():
    assert [part.tolist() for part in split_wide(chain(3, 10), 0.1)] == [[0, 1, 2]]


def test_agreement_is_that_of_a_loop_over_all_pairs(rng):
    clusters, names = rng.integers(0, 6, 40), rng.integers(0, 5, 40).astype(str)
    names[:4] = ""
    known = [i for i in range(40) if names[i]]
    pairs = list(combinations(known, 2))
    joined = {pair for pair in pairs if clusters[pair[0]] == clusters[pair[1]]}
    namesakes = {pair for pair in pairs if names[pair[0]] == names[pair[1]]}
    found = agreement(clusters, names)
    assert found.precision == pytest.approx(len(joined & namesakes) / len(joined))
    assert found.recall == pytest.approx(len(joined & namesakes) / len(namesakes))
    both = [
        [sum(clusters[i] == clusters[j] and names[i] == names[j] for j in known) for i in known],
        [sum(clusters[i] == clusters[j] for j in known) for i in known],
        [sum(names[i] == names[j] for j in known) for i in known],
    ]
    assert found.bcubed_precision == pytest.approx(np.mean(np.divide(both[0], both[1])))
    assert found.bcubed_recall == pytest.approx(np.mean(np.divide(both[0], both[2])))
    assert found.num_photos == 36
