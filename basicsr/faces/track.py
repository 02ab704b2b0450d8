"""Faces of a video followed from frame to frame, and their landmarks made steady.

A face belongs to the track whose last box it overlaps and whose embedding is not that of somebody else, or, after a
while out of sight, to the track that its embedding is near to. Pairs are chosen one to one (Hungarian method).

Shapes: N faces of a frame; T tracks; E embedding; F frames of a track.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from basicsr.faces.detect import Array, Face

MIN_OVERLAP = 0.3  # intersection over union of a face with where its track was last
MIN_SAME = 0.2  # cosine to the track below which an overlapping face is somebody else's: a cut
MIN_RETURN = 0.5  # cosine from which a face elsewhere is the track's, which was out of sight
MAX_LOST = 60  # frames out of sight after which a track has ended
MAX_GAP = 8  # frames without a detection that are bridged
NO_PAIR = -1e3


@dataclass
class Track:
    """A face over time."""

    number: int
    frames: list[int] = field(default_factory=list)
    boxes: list[Array] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    landmarks: list[Array] = field(default_factory=list)
    embedding_sum: Array | None = None  # (E,), of all embeddings, weighted by score

    @property
    def embedding(self) -> Array | None:
        """(E,), unit length; None without a recogniser."""
        if self.embedding_sum is None:
            return None
        return self.embedding_sum / max(float(np.linalg.norm(self.embedding_sum)), 1e-6)

    @property
    def best(self) -> int:
        """The index of the clearest view: large and sure."""
        areas = [float(np.prod(box[2:] - box[:2])) for box in self.boxes]
        return int(np.argmax(np.array(areas) * np.array(self.scores)))

    def overlaps(self, other: Track) -> bool:
        """Whether both are in sight in some frame."""
        return not set(self.frames).isdisjoint(other.frames)

    def add(self, frame: int, face: Face, embedding: Array | None) -> None:
        self.frames.append(frame)
        self.boxes.append(face.box)
        self.scores.append(face.score)
        self.landmarks.append(face.landmarks)
        if embedding is not None:
            weighted = embedding * face.score
            self.embedding_sum = weighted if self.embedding_sum is None else self.embedding_sum + weighted


class Tracker:
    """Sorts the faces of frame after frame into `tracks`."""

    def __init__(self) -> None:
        self.tracks: list[Track] = []

    def update(self, frame: int, faces: Sequence[Face], embeddings: Array | None = None) -> None:
        """Take in the faces of a frame; frames come in order. `embeddings`: (N, E), unit length."""
        active = [track for track in self.tracks if frame - track.frames[-1] <= MAX_LOST]
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
            owners[i].add(frame, face, None if embeddings is None else embeddings[i])


def _affinity(track: Track, frame: int, face: Face, embedding: Array | None) -> float:
    """How well a face continues a track: overlap plus likeness; NO_PAIR where it does not."""
    overlap = intersection_over_union(track.boxes[-1], face.box) if frame - track.frames[-1] <= MAX_GAP else 0.0
    known = track.embedding
    if embedding is None or known is None:
        return overlap if overlap >= MIN_OVERLAP else NO_PAIR
    likeness = float(known @ embedding)
    if (overlap >= MIN_OVERLAP and likeness >= MIN_SAME) or likeness >= MIN_RETURN:
        return overlap + likeness
    return NO_PAIR


def intersection_over_union(one: Array, other: Array) -> float:
    """Of two boxes (4,), 0..1."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = float(np.prod(np.maximum(sides, 0)))
    both = float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2])) - shared
    return shared / max(both, 1e-6)


def steady_landmarks(track: Track, sigma: float) -> dict[int, NDArray[np.float64]]:
    """Landmarks (5, 2) px by frame: gaps up to MAX_GAP frames bridged in a line, then a Gaussian over time.

    The filter looks as far ahead as back and continues the ends point-symmetrically, so that an even motion passes
    unchanged and nothing lags; a shake from frame to frame is damped: of independent errors, standard deviation
    1 / sqrt(2 sqrt(pi) sigma) is left, 43 % at sigma 1.5.

    Args:
        sigma: frames; 0 leaves the landmarks as they were found.
    """
    steady: dict[int, NDArray[np.float64]] = {}
    frames = np.array(track.frames)
    points = np.stack(track.landmarks).astype(np.float64).reshape(len(frames), -1)  # (F, 10)
    for part in np.split(np.arange(len(frames)), np.flatnonzero(np.diff(frames) > MAX_GAP) + 1):
        every = np.arange(frames[part[0]], frames[part[-1]] + 1)
        dense = np.stack([np.interp(every, frames[part], points[part, c]) for c in range(points.shape[1])], 1)
        for frame, row in zip(every, gaussian_over_time(dense, sigma), strict=True):
            steady[int(frame)] = row.reshape(-1, 2)
    return steady


def gaussian_over_time(values: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Each column of (F, C) convolved with a Gaussian that is cut at 3 sigma."""
    reach = min(int(np.ceil(3 * sigma)), len(values) - 1)
    if reach < 1:
        return values
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    before = 2 * values[:1] - values[reach:0:-1]
    after = 2 * values[-1:] - values[-2 : -reach - 2 : -1]
    padded = np.concatenate([before, values, after])
    return np.stack([np.convolve(column, kernel, "valid") for column in padded.T], 1)
