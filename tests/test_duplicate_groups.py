"""Groups of near duplicates: chains within a person, never across people, none for photos without a name."""

from __future__ import annotations

import numpy as np

from basicsr.data.duplicate_groups import duplicate_groups


def at(*degrees: float) -> np.ndarray:
    """Unit vectors (N, 2) at these angles."""
    angles = np.deg2rad(np.array(degrees))
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def test_a_chain_of_similar_photos_is_one_group_and_strangers_are_none() -> None:
    vectors = at(0, 20, 40, 120, 0, 0)  # cos 20 = .94, cos 40 = .77
    names = ["a", "a", "a", "a", "b", ""]
    assert duplicate_groups(names, vectors) == ["a#0", "a#0", "a#0", "", "", ""]


def test_two_groups_of_a_person_have_names_of_their_own() -> None:
    assert duplicate_groups(["a"] * 5, at(0, 90, 5, 95, 180)) == ["a#0", "a#1", "a#0", "a#1", ""]


def test_a_photo_without_an_embedding_is_in_no_group() -> None:
    vectors = at(0, 0, 0)
    vectors[1] = 0
    assert duplicate_groups(["a"] * 3, vectors) == ["a#0", "", "a#0"]
