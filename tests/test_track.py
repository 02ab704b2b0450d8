"""Following faces: by place and by embedding, over gaps and cuts; the filter of the landmarks."""

from __future__ import annotations

import numpy as np
import pytest

from basicsr.faces import Face
from basicsr.faces.track import MAX_GAP, MAX_LOST, Track, Tracker, gaussian_over_time, steady_landmarks

ANN, BOB = np.array([1, 0, 0], np.float32), np.array([0, 1, 0], np.float32)


def face_at(left: float, top: float = 0.0, size: float = 20.0) -> Face:
    box = np.array([left, top, left + size, top + size], np.float32)
    points = box[:2] + np.array([(5, 5), (15, 5), (10, 10), (6, 15), (14, 15)], np.float32)
    return Face(box, 0.9, points)


def frames_by_track(tracker: Tracker) -> list[list[int]]:
    return [track.frames for track in tracker.tracks]


def test_faces_that_move_keep_their_tracks_without_a_recogniser() -> None:
    tracker = Tracker()
    for i in range(10):
        faces = [face_at(3 * i), face_at(100 - 3 * i, top=40)]
        tracker.update(i, faces if i % 2 else faces[::-1])
    assert frames_by_track(tracker) == [list(range(10))] * 2


def test_people_who_cross_are_told_apart_by_their_embeddings() -> None:
    tracker = Tracker()
    for i in range(21):
        tracker.update(i, [face_at(2 * i), face_at(40 - 2 * i)], np.stack([ANN, BOB]))
    assert frames_by_track(tracker) == [list(range(21))] * 2
    assert tracker.tracks[0].landmarks[-1][0, 0] == 45


def test_after_a_cut_another_person_in_the_same_place_is_a_new_track() -> None:
    tracker = Tracker()
    for i in range(6):
        tracker.update(i, [face_at(0)], (ANN if i < 3 else BOB)[None])
    assert frames_by_track(tracker) == [[0, 1, 2], [3, 4, 5]]


def test_a_person_who_comes_back_elsewhere_is_known_by_the_embedding_for_a_while() -> None:
    tracker = Tracker()
    tracker.update(0, [face_at(0)], ANN[None])
    tracker.update(MAX_LOST, [face_at(80)], ANN[None])
    tracker.update(2 * MAX_LOST + 1, [face_at(0)], ANN[None])
    assert frames_by_track(tracker) == [[0, MAX_LOST], [2 * MAX_LOST + 1]]


def test_an_even_motion_passes_the_filter_unchanged_and_shaking_is_damped() -> None:
    line = np.outer(np.arange(40.0), [2.0, -1.0]) + 7
    assert np.allclose(gaussian_over_time(line, 1.5), line)
    noise = np.random.default_rng(0).normal(0, 1, (4000, 1))
    assert gaussian_over_time(noise, 1.5).std() == pytest.approx((2 * np.pi**0.5 * 1.5) ** -0.5, rel=0.05)
    assert np.array_equal(gaussian_over_time(line[:1], 1.5), line[:1])
    assert np.allclose(gaussian_over_time(line[:3], 1.5), line[:3]), "shorter than the filter"


def test_short_gaps_are_bridged_and_long_ones_stay_open() -> None:
    track = Track(0)
    seen = [0, 1, 2, 6, 7, 7 + MAX_GAP + 1]
    for i in seen:
        track.add(i, face_at(3 * i), None)
    steady = steady_landmarks(track, 1.5)
    assert sorted(steady) == [*range(8), seen[-1]]
    for i, points in steady.items():
        assert np.allclose(points, face_at(3 * i).landmarks, atol=1e-4)
    assert np.array_equal(steady_landmarks(track, 0)[1], track.landmarks[1])
