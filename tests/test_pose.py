"""Yaw from landmarks, on heads whose yaw is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from basicsr.data.generated_faces import person_at, photo_at, render_with_landmarks
from basicsr.faces.pose import NOSE_DEPTH, estimate_yaw


def turned_head(yaw: float, roll: float = 0.0) -> np.ndarray:
    """Landmarks of a head whose nose is as deep as the estimate takes it to be, px."""
    points = np.array([(-32, 0, 0), (32, 0, 0), (0, 36, 64 * NOSE_DEPTH), (-25, 70, 0), (25, 70, 0)], float)
    angle, tilt = np.radians(yaw), np.radians(roll)
    x = points[:, 0] * np.cos(angle) + points[:, 2] * np.sin(angle)
    y = points[:, 1]
    return np.stack([x * np.cos(tilt) - y * np.sin(tilt), x * np.sin(tilt) + y * np.cos(tilt)], 1) + 100


@pytest.mark.parametrize("roll", [0.0, 25.0, -40.0])
def test_the_yaw_of_a_head_of_that_shape_comes_back_at_any_roll(roll):
    heads = np.stack([turned_head(yaw, roll) for yaw in (-60, -20, 0, 5, 45)])
    np.testing.assert_allclose(estimate_yaw(heads), [-60, -20, 0, 5, 45], atol=1e-6)


def test_size_does_not_matter():
    head = turned_head(30)
    assert estimate_yaw(head[None] * 7)[0] == pytest.approx(30)


def test_landmarks_in_one_point_give_a_number():
    assert np.isfinite(estimate_yaw(np.zeros((1, 5, 2)))).all()


def test_generated_people_of_all_kinds_are_sorted_into_the_right_direction():
    yaws = [-30.0, -15.0, 0.0, 15.0, 30.0]
    for person in range(6):
        photos = [dataclasses.replace(photo_at(0, person, 0), yaw=yaw) for yaw in yaws]
        landmarks = [render_with_landmarks(person_at(0, person), photo, 32)[1] for photo in photos]
        np.testing.assert_allclose(estimate_yaw(np.stack(landmarks)), yaws, atol=10)
