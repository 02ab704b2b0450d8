"""Similar rows by blocks equal those of the whole matrix; the threshold of strangers ignores friends."""

from __future__ import annotations

import numpy as np
import pytest

from basicsr.data import similarity
from basicsr.data.similarity import similar_pairs, stranger_threshold
from basicsr.utils.errors import UserError


def unit_rows(rng: np.random.Generator, num: int, width: int = 8) -> np.ndarray:
    rows = rng.normal(size=(num, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("block", [1, 7, 50, 1000])
def test_blocks_find_what_the_whole_matrix_has(rng, monkeypatch, block):
    monkeypatch.setattr(similarity, "BLOCK", block)
    rows, others = unit_rows(rng, 50), unit_rows(rng, 30)
    within, between = similar_pairs(rows, None, 0.4), similar_pairs(rows, others, 0.4)
    i, j = np.nonzero(np.triu(rows @ rows.T >= 0.4, 1))
    np.testing.assert_array_equal([within.first, within.second], [i, j])
    np.testing.assert_allclose(within.cosine, (rows @ rows.T)[i, j], atol=1e-6)
    np.testing.assert_array_equal([between.first, between.second], np.nonzero(rows @ others.T >= 0.4))


def test_a_threshold_that_joins_strangers_is_refused(rng, monkeypatch):
    monkeypatch.setattr(similarity, "MAX_PAIRS", 100)
    with pytest.raises(UserError, match="threshold -1: more than 100 of 50 x 50 pairs"):
        similar_pairs(unit_rows(rng, 50), None, -1.0)


def test_the_threshold_of_strangers_is_reached_by_that_share_of_normal_cosines(rng):
    rows = unit_rows(rng, 4000, 128)  # cosines of random directions are nearly normal, deviation 1 / sqrt(128)
    threshold = stranger_threshold(rows, None, 1e-3, rng)
    assert threshold == pytest.approx(3.09 / 128**0.5, rel=0.03)
    share = len(similar_pairs(rows, None, threshold).first) / (4000 * 3999 / 2)
    assert 0.7e-3 < share < 1.3e-3


def test_photos_of_one_person_move_the_threshold_of_strangers_little(rng):
    people = unit_rows(rng, 500, 128)
    alone = stranger_threshold(people, None, 1e-6, np.random.default_rng(0))
    with_friends = stranger_threshold(people.repeat(4, 0), None, 1e-6, np.random.default_rng(0))
    assert with_friends == pytest.approx(alone, abs=0.02)
