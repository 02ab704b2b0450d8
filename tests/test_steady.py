"""The filter of landmarks: shaking is damped, no motion lags, nothing is bridged where it cannot be."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from test_track import face_at

from basicsr.faces.steady import MAX_SHIFT, gaussian_over_time, steady_landmarks
from basicsr.faces.track import MAX_GAP, Track

SIDE = 20.0  # px, of the faces


def track_of(frames: Sequence[int], left: Callable[[int], float]) -> Track:
    track = Track(0)
    for frame in frames:
        track.add(frame, face_at(left(frame), size=SIDE), None)
    return track


def test_an_even_motion_passes_the_filter_unchanged_and_shaking_is_damped() -> None:
    line = np.outer(np.arange(40.0), [2.0, -1.0]) + 7
    assert np.allclose(gaussian_over_time(line, 1.5), line)
    noise = np.random.default_rng(0).normal(0, 1, (4000, 1))
    assert gaussian_over_time(noise, 1.5).std() == pytest.approx((2 * np.pi**0.5 * 1.5) ** -0.5, rel=0.05)
    assert np.array_equal(gaussian_over_time(line[:1], 1.5), line[:1])
    assert np.allclose(gaussian_over_time(line[:3], 1.5), line[:3]), "shorter than the filter"


def test_short_gaps_are_bridged_and_long_ones_stay_open() -> None:
    seen = [0, 1, 2, 6, 7, 7 + MAX_GAP + 1]
    track = track_of(seen, lambda i: 3 * i)
    steady = steady_landmarks(track, 1.5)
    assert list(steady) == [*range(8), seen[-1]]
    assert len(steady) == 9
    assert 8 not in steady
    for i, points in steady.items():
        assert np.allclose(points, face_at(3 * i).landmarks, atol=1e-4)
    assert np.array_equal(steady_landmarks(track, 0)[1], track.landmarks[1])


def test_a_sudden_start_and_stop_does_not_lag() -> None:
    track = track_of(range(60), lambda i: float(np.clip(8 * (i - 20), 0, 160)))
    moved = np.stack([steady_landmarks(track, 1.5)[i] for i in range(60)]) - track.landmarks
    longest = np.linalg.norm(moved, axis=2).max()
    assert 0 < longest <= MAX_SHIFT * SIDE * 1.001
    plain = gaussian_over_time(track.landmarks.reshape(60, -1).astype(float), 1.5).reshape(60, 5, 2)
    assert np.linalg.norm(plain - track.landmarks, axis=2).max() > 5 * longest, "the filter alone would lag"


def test_nothing_is_bridged_or_filtered_over_a_jump_or_a_cut() -> None:
    jump = track_of([0, 1, 2, 5, 6, 7], lambda i: 0.0 if i < 3 else 100.0)
    assert list(steady_landmarks(jump, 1.5)) == [0, 1, 2, 5, 6, 7]
    for i, points in steady_landmarks(jump, 1.5).items():
        assert np.allclose(points, face_at(0.0 if i < 3 else 100.0).landmarks)
    still = track_of([0, 1, 2, 5, 6, 7], lambda _: 0.0)
    assert list(steady_landmarks(still, 1.5)) == list(range(8))
    assert list(steady_landmarks(still, 1.5, cuts=[3, 5])) == [0, 1, 2, 5, 6, 7], "frames 3 and 4 show something else"


def test_a_fast_face_that_is_missed_once_is_bridged() -> None:
    track = track_of([0, 1, 2, 3, 5, 6], lambda i: 9.0 * i)
    assert np.allclose(steady_landmarks(track, 0)[4], face_at(36.0).landmarks)


def test_a_face_behind_another_one_is_not_painted_over_it() -> None:
    behind = track_of([0, 1, 2, 5, 6], lambda _: 0.0)
    passing = track_of(range(7), lambda i: 20.0 * (i - 3))
    beside = track_of(range(7), lambda _: 30.0)
    assert 3 in steady_landmarks(behind, 1.5, all_tracks=[behind, beside])
    assert list(steady_landmarks(behind, 1.5, all_tracks=[behind, passing, beside])) == [0, 1, 2, 5, 6]
