"""The landmarks of a track made steady: gaps bridged, shaking damped, motion left as it is.

Shapes: F frames of a track, or of a part of it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from basicsr.faces.detect import Array
from basicsr.faces.track import MAX_GAP, MIN_OVERLAP, Track, continuity, intersection_over_union

Floats = NDArray[np.float64]

MAX_HIDDEN = 0.1  # intersection over union with a face that is seen, from which one that is not seen is behind it
MAX_SHIFT = 0.02  # of the side of the face: a landmark that the filter would move by more is in motion


class SteadyLandmarks(Mapping[int, Array]):
    """Landmarks (5, 2), px, by frame.

    Args:
        parts: first frame and landmarks (F, 5, 2) of stretches without a gap, in order.
    """

    def __init__(self, parts: Sequence[tuple[int, Array]]) -> None:
        self._starts = [start for start, _ in parts]
        self._parts = [points for _, points in parts]

    def __getitem__(self, frame: int) -> Array:
        place = bisect_right(self._starts, frame) - 1
        if place < 0 or frame - self._starts[place] >= len(self._parts[place]):
            raise KeyError(frame)
        return np.asarray(self._parts[place][frame - self._starts[place]])

    def __iter__(self) -> Iterator[int]:
        for start, points in zip(self._starts, self._parts, strict=True):
            yield from range(start, start + len(points))

    def __len__(self) -> int:
        return sum(map(len, self._parts))


def steady_landmarks(
    track: Track, sigma: float, cuts: Sequence[int] = (), all_tracks: Sequence[Track] = ()
) -> SteadyLandmarks:
    """The landmarks of a track: gaps up to MAX_GAP frames bridged in a line, then a Gaussian over time.

    The filter looks as far ahead as back and continues the ends point-symmetrically, so that an even motion passes
    unchanged; of independent errors from frame to frame, standard deviation 1 / sqrt(2 sqrt(pi) sigma) is left, 43 % at
    sigma 1.5. Where a motion begins or ends, it would lag: no landmark is moved by more than MAX_SHIFT of the face's
    side. Nothing is bridged or filtered over a cut, nor over a jump that the motion before does not lead to; nothing is
    bridged where somebody else's face is in front.

    Args:
        sigma: frames; 0 leaves the landmarks as they were found.
        cuts: frames with which shots begin, rising.
        all_tracks: who else is in the video.
    """
    frames = np.array(track.frames)
    shots = np.searchsorted(np.asarray(cuts, np.int64), frames, "right")
    apart = (np.diff(frames) > MAX_GAP) | (np.diff(shots) > 0)
    if len(frames) > 1:
        apart |= continuity(frames, track.boxes) < MIN_OVERLAP
    for gap in np.flatnonzero((np.diff(frames) > 1) & ~apart):
        apart[gap] = any(_is_behind(track, int(gap), other) for other in all_tracks)
    parts = []
    for part in np.split(np.arange(len(frames)), np.flatnonzero(apart) + 1):
        every = np.arange(frames[part[0]], frames[part[-1]] + 1)
        found = np.concatenate([track.landmarks[part].reshape(len(part), -1), track.boxes[part]], 1)  # (F, 14)
        dense = np.stack([np.interp(every, frames[part], column) for column in found.T], 1)
        points, boxes = dense[:, :10], dense[:, 10:]
        sides = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
        steady = points + bounded(gaussian_over_time(points, sigma) - points, MAX_SHIFT * sides)
        parts.append((int(every[0]), steady.reshape(-1, 5, 2).astype(np.float32)))
    return SteadyLandmarks(parts)


def _is_behind(track: Track, gap: int, other: Track) -> bool:
    """Whether another face is where that of the track would be, in a frame between its places `gap` and `gap + 1`."""
    first, last = track.frames[gap : gap + 2]
    seen = slice(bisect_right(other.frames, first), bisect_left(other.frames, last))
    if seen.start >= seen.stop:
        return False
    share = (np.array(other.frames[seen]) - first) / (last - first)
    start, end = track.boxes[gap : gap + 2]
    boxes = (start + share[:, None] * (end - start)).astype(np.float32)
    return bool((intersection_over_union(boxes, other.boxes[seen]) > MAX_HIDDEN).any())


def bounded(shifts: Floats, limits: Floats) -> Floats:
    """Shifts (F, 10) of five landmarks, all of a frame made smaller where the longest is above the limit (F,)."""
    longest = np.linalg.norm(shifts.reshape(-1, 5, 2), axis=2).max(1)
    return shifts * np.minimum(1.0, limits / np.maximum(longest, 1e-9))[:, None]


def gaussian_over_time(values: Floats, sigma: float) -> Floats:
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
