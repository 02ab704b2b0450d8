"""Following faces: by place and motion within a shot, by embedding over shots and absences."""

from __future__ import annotations

import numpy as np

from basicsr.faces import Face
from basicsr.faces.track import MAX_GAP, MIN_JOIN, MIN_SIDE, Track, Tracker

ANN, BOB = np.array([1, 0, 0], np.float32), np.array([0, 1, 0], np.float32)


def face_at(left: float, top: float = 0.0, size: float = 20.0) -> Face:
    box = np.array([left, top, left + size, top + size], np.float32)
    points = box[:2] + np.array([(5, 5), (15, 5), (10, 10), (6, 15), (14, 15)], np.float32) * np.float32(size / 20)
    return Face(box, 0.9, points)


def frames_by_track(tracks: list[Track]) -> list[list[int]]:
    return [list(track.frames) for track in tracks]


def like(one: np.ndarray, other: np.ndarray, cosine: float) -> np.ndarray:
    """A unit vector with this cosine to `one`, in the plane of both."""
    return (cosine * one + np.sqrt(1 - cosine**2) * other).astype(np.float32)


def test_faces_that_move_keep_their_tracks_without_a_recogniser() -> None:
    tracker = Tracker()
    for i in range(10):
        faces = [face_at(3 * i), face_at(100 - 3 * i, top=40)]
        tracker.update(i, faces if i % 2 else faces[::-1])
    assert frames_by_track(tracker.people()) == [list(range(10))] * 2


def test_faces_that_cross_keep_their_tracks_by_their_motion_without_a_recogniser() -> None:
    tracker = Tracker()
    for i in range(15):
        tracker.update(i, [face_at(6 * i), face_at(84 - 6 * i, top=3)])
    assert frames_by_track(tracker.people()) == [list(range(15))] * 2
    assert [float(track.boxes[-1, 0]) for track in tracker.people()] == [84, 0]


def test_people_who_cross_are_told_apart_by_their_embeddings() -> None:
    tracker = Tracker()
    for i in range(21):
        tracker.update(i, [face_at(2 * i), face_at(40 - 2 * i)], np.stack([ANN, BOB]))
    assert frames_by_track(tracker.people()) == [list(range(21))] * 2
    assert tracker.tracks[0].landmarks[-1][0, 0] == 45


def test_another_person_in_the_same_place_is_a_new_track() -> None:
    tracker = Tracker()
    for i in range(6):
        tracker.update(i, [face_at(0)], (ANN if i < 3 else BOB)[None])
    assert frames_by_track(tracker.people()) == [[0, 1, 2], [3, 4, 5]]


def test_a_face_that_turns_away_little_by_little_stays_in_its_track() -> None:
    tracker = Tracker()
    for i, cosine in enumerate([1.0] * 20 + [0.8, 0.5, 0.2, 0.0]):
        tracker.update(i, [face_at(0)], like(ANN, BOB, cosine)[None])
    assert frames_by_track(tracker.tracks) == [list(range(24))]


def test_no_track_goes_on_over_a_cut_and_a_recogniser_finds_the_person_again() -> None:
    for embeddings, expected in ((None, [[0, 1], [2, 3]]), (ANN[None], [[0, 1, 2, 3]])):
        tracker = Tracker()
        for i in range(4):
            tracker.update(i, [face_at(0, size=30)], embeddings, cut=i == 2)
        assert frames_by_track(tracker.people()) == expected


def test_a_person_who_comes_back_is_known_by_the_mean_though_the_first_look_tells_nothing() -> None:
    tracker = Tracker()
    tracker.update(0, [face_at(0, size=30)], ANN[None])
    again = 10_000  # frames
    for i, cosine in enumerate((0.1, 0.6, 0.9, 0.9)):  # half hidden at first
        tracker.update(again + i, [face_at(80 + i, size=30)], like(ANN, BOB, cosine)[None])
    (ann,) = tracker.people()
    assert list(ann.frames) == [0, *range(again, again + 4)]
    assert ann.boxes[:, 0].tolist() == [0, 80, 81, 82, 83]


def test_large_views_tell_more_of_who_it_is_than_small_ones() -> None:
    tracker = Tracker()
    for i, size in enumerate((20, 20, 20, 30, 45, 70, 100, 150)):
        tracker.update(i, [face_at(0, size=size)], like(ANN, BOB, 0.4 if size == 20 else 1.0)[None])
    (track,) = tracker.people()
    assert track.embedding is not None
    assert float(track.embedding @ ANN) > 0.98
    plain = np.mean([like(ANN, BOB, 0.4)] * 3 + [ANN] * 5, axis=0)
    assert float(plain @ ANN) / float(np.linalg.norm(plain)) < 0.95


def test_tracks_that_are_seen_together_or_unlike_each_other_or_too_small_to_tell_are_two_people() -> None:
    together, unlike, tiny = Tracker(), Tracker(), Tracker()
    for i in range(3):
        together.update(i, [face_at(0, size=30), face_at(90, size=30)], np.stack([ANN, ANN]))
    unlike.update(0, [face_at(0, size=30)], ANN[None])
    unlike.update(MAX_GAP + 1, [face_at(0, size=30)], like(ANN, BOB, MIN_JOIN - 0.01)[None])
    for frame in (0, MAX_GAP + 1):
        tiny.update(frame, [face_at(0, size=MIN_SIDE - 1)], ANN[None])
    assert [len(tracker.people()) for tracker in (together, unlike, tiny)] == [2, 2, 2]


def test_people_are_numbered_by_when_they_are_first_seen_and_from_left_to_right() -> None:
    tracker = Tracker()
    tracker.update(0, [face_at(50), face_at(0)])
    for i in range(1, 5):
        tracker.update(i, [face_at(150)])
    assert [(track.number, float(track.boxes[0, 0])) for track in tracker.people()] == [(0, 0), (1, 50), (2, 150)]
