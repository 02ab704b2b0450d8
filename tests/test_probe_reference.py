"""benchmarks/probe_reference.py: the linear map is ridge regression, and wrong references are those of others."""

from __future__ import annotations

import numpy as np
import pytest

from basicsr.utils.errors import UserError
from benchmarks import probe_reference
from benchmarks.probe_reference import LinearMap


def test_without_penalty_a_linear_truth_is_found_and_with_one_the_weights_shrink() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((200, 5)).astype(np.float32)
    truth = rng.standard_normal((5, 12)) * 0.1
    gt = (features @ truth).reshape(200, 3, 2, 2).astype(np.float32)
    exact, shrunk = LinearMap.fit(features, gt, 1e-9), LinearMap.fit(features, gt, 300.0)
    np.testing.assert_allclose(exact.weight, truth, atol=1e-5)
    assert np.linalg.norm(shrunk.weight) < 0.7 * np.linalg.norm(truth)
    np.testing.assert_allclose(exact.draw(features, 2), gt.clip(-1, 1), atol=1e-4)


def test_a_wrong_reference_is_somebody_elses_also_where_one_person_has_many_photos() -> None:
    people = ["a", "a", "a", "b", "c", "c"]
    places = probe_reference.other_people(people)
    assert all(people[place] != person for place, person in zip(places, people, strict=True))
    with pytest.raises(UserError, match="one person alone"):
        probe_reference.other_people(["a", "a"])


def test_an_embedding_counts_as_features_of_size_one() -> None:
    embedding = np.full((2, 16), 0.25, np.float32)  # of unit length
    features = probe_reference.features_of(np.zeros((2, 3, 32, 32), np.float32), embedding)
    assert features.shape == (2, 3 * 16 * 16 + 16 + 1)
    np.testing.assert_allclose(features[:, 768:], 1.0)


def test_the_recognizer_that_embeds_may_not_judge() -> None:
    with pytest.raises(UserError, match="another recogniser"):
        probe_reference.parse_arguments(["--index", "i.csv", "--recognizer", "a.onnx", "--judge", "a.onnx"])
