"""Faces of a video followed from frame to frame within a shot, and joined over shots to one track for each person.

Within a shot a face belongs to the track whose box it overlaps, where that was last or where its motion leads, and
whose embedding is not that of somebody else. Pairs are chosen one to one (Hungarian method). When all frames are known,
tracks that are never in sight together are joined by their mean embeddings: a mean over many frames tells who it is
where the first look at somebody who comes back, half behind another or at the edge of the picture, does not.

Shapes: N faces of a frame; T tracks; E embedding; F frames of a track.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from basicsr.faces.detect import Array, Face

MIN_OVERLAP = 0.3  # intersection over union of a face with where its track is expected
MIN_SAME = 0.2  # cosine to the track below which an overlapping face is somebody else's
MIN_JOIN = 0.5  # cosine of the means from which two tracks are one person
MIN_SIDE = 24.0  # px, of the clearest view of a track that is joined: smaller faces of several people look alike
MAX_GAP = 8  # frames without a detection that are bridged
NO_PAIR = -1e3
BOX, SCORE, POINTS = slice(0, 4), 4, slice(5, 15)  # columns of a track's table


class Track:
    """A face over time. What is kept of a frame takes 68 bytes, so that an hour of video is some megabytes."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.frames = array("q")  # rising
        self.embedding_sum: Array | None = None  # (E,), weighted: large and sure views tell more
        self.last_embedding: Array | None = None
        self._table = np.empty((16, 15), np.float32)  # grows by doubling

    @property
    def _rows(self) -> Array:
        return self._table[: len(self.frames)]

    @property
    def boxes(self) -> Array:
        """(F, 4)"""
        return self._rows[:, BOX]

    @property
    def scores(self) -> Array:
        """(F,)"""
        return self._rows[:, SCORE]

    @property
    def landmarks(self) -> Array:
        """(F, 5, 2)"""
        return self._rows[:, POINTS].reshape(-1, 5, 2)

    @property
    def embedding(self) -> Array | None:
        """(E,), unit length; None without a recogniser."""
        if self.embedding_sum is None:
            return None
        return self.embedding_sum / max(float(np.linalg.norm(self.embedding_sum)), 1e-6)

    @property
    def side(self) -> float:
        """Of the clearest view, px."""
        return side_of(self.boxes[self.best])

    @property
    def best(self) -> int:
        """The index of the clearest view: large and sure."""
        return int(np.argmax(np.prod(self.boxes[:, 2:] - self.boxes[:, :2], axis=1) * self.scores))

    def overlaps(self, other: Track) -> bool:
        """Whether both are in sight in some frame."""
        few, many = (np.asarray(frames) for frames in sorted((self.frames, other.frames), key=len))
        places = np.minimum(np.searchsorted(many, few), len(many) - 1)
        return bool((many[places] == few).any())

    def add(self, frame: int, face: Face, embedding: Array | None) -> None:
        if len(self.frames) == len(self._table):
            self._table = np.concatenate([self._table, np.empty_like(self._table)])
        self._table[len(self.frames)] = [*face.box, face.score, *face.landmarks.ravel()]
        self.frames.append(frame)
        if embedding is not None:
            weighted = embedding * np.float32(face.score * side_of(face.box))
            self.embedding_sum = weighted if self.embedding_sum is None else self.embedding_sum + weighted
            self.last_embedding = embedding

    def take_in(self, other: Track) -> None:
        """Add the frames of a track of the same person; no frame is in both."""
        rows = np.concatenate([self._rows, other._rows])
        frames = np.concatenate([self.frames, other.frames])
        order = np.argsort(frames)
        self._table, self.frames = rows[order], array("q", frames[order].tolist())
        if self.embedding_sum is not None and other.embedding_sum is not None:
            self.embedding_sum = self.embedding_sum + other.embedding_sum


class Tracker:
    """Sorts the faces of frame after frame into `tracks`, each within one shot."""

    def __init__(self) -> None:
        self.tracks: list[Track] = []
        self._active: list[Track] = []

    def update(self, frame: int, faces: Sequence[Face], embeddings: Array | None = None, cut: bool = False) -> None:
        """Take in the faces of a frame; frames come in order.

        Args:
            embeddings: (N, E), unit length.
            cut: a shot begins with this frame: no track goes on.
        """
        active = [] if cut else [track for track in self._active if frame - track.frames[-1] <= MAX_GAP]
        affinity = np.full((len(faces), len(active)), NO_PAIR)
        for j, track in enumerate(active):
            for i, face in enumerate(faces):
                affinity[i, j] = _affinity(track, frame, face, None if embeddings is None else embeddings[i])
        owners: dict[int, Track] = {}
        for i, j in zip(*linear_sum_assignment(-affinity), strict=True):
            if affinity[i, j] > NO_PAIR:
                owners[int(i)] = active[j]
        for i, face in enumerate(faces):
            if i not in owners:
                owners[i] = Track(len(self.tracks))
                self.tracks.append(owners[i])
                active.append(owners[i])
            owners[i].add(frame, face, None if embeddings is None else embeddings[i])
        self._active = active

    def people(self) -> list[Track]:
        """The tracks, those of one person joined, numbered by when they begin and from left to right."""
        people: list[Track] = []
        for track in sorted(self.tracks, key=lambda track: -len(track.frames)):  # what is seen longest is known best
            known = [_likeness(person, track) for person in people]
            best = int(np.argmax(known)) if known else -1
            if known and known[best] >= MIN_JOIN:
                people[best].take_in(track)
            else:
                people.append(track)
        people.sort(key=lambda track: (track.frames[0], float(track.boxes[0, 0] + track.boxes[0, 2])))
        for number, person in enumerate(people):
            person.number = number
        return people


def _affinity(track: Track, frame: int, face: Face, embedding: Array | None) -> float:
    """How well a face continues a track: overlap plus likeness; NO_PAIR where it does not."""
    frames = np.array([*track.frames[-2:], frame])
    overlap = float(continuity(frames, np.vstack([track.boxes[-2:], face.box]))[-1])
    if overlap < MIN_OVERLAP:
        return NO_PAIR
    if embedding is None or track.embedding is None or track.last_embedding is None:
        return overlap
    # a face that turns away is still like it was a moment ago
    likeness = max(float(track.embedding @ embedding), float(track.last_embedding @ embedding))
    return overlap + likeness if likeness >= MIN_SAME else NO_PAIR


def _likeness(person: Track, track: Track) -> float:
    """Cosine of the means of two tracks; NO_PAIR where they cannot be one person, or nothing tells."""
    if person.embedding is None or track.embedding is None or min(person.side, track.side) < MIN_SIDE:
        return NO_PAIR
    cosine = float(person.embedding @ track.embedding)
    return cosine if cosine >= MIN_JOIN and not person.overlaps(track) else NO_PAIR


def side_of(box: Array) -> float:
    """Of the square that is as large as a box (4,), px."""
    return float(np.sqrt(np.prod(np.maximum(box[2:] - box[:2], 0))))


def continuity(frames: NDArray[np.int64], boxes: Array) -> Array:
    """How well each box of a sequence follows from those before: (F,) and (F, 4) -> (F - 1,), 0..1.

    It is the overlap with the last box, or with where the motion of the last two leads, whichever is larger.
    """
    gaps = np.diff(frames)[:, None]
    steps = np.diff(boxes, axis=0) / gaps  # px per frame
    led = (boxes[1:-1] + steps[:-1] * gaps[1:]).astype(np.float32)
    stayed = intersection_over_union(boxes[:-1], boxes[1:])
    moved = np.concatenate([stayed[:1], intersection_over_union(led, boxes[2:])])
    return np.maximum(stayed, moved).astype(np.float32)


def intersection_over_union(one: Array, other: Array) -> Array:
    """Of boxes (..., 4), pair by pair, 0..1."""
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    shared = np.prod(np.maximum(sides, 0), axis=-1)
    both = np.prod(one[..., 2:] - one[..., :2], axis=-1) + np.prod(other[..., 2:] - other[..., :2], axis=-1) - shared
    return np.asarray(shared / np.maximum(both, 1e-6), np.float32)
