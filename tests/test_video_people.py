"""Real faces moved over a canvas, through a real detector and recogniser: one track a person, steady, no lag."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch
from video_toys import write_clip

from basicsr.faces import load_detector
from basicsr.faces.steady import steady_landmarks
from basicsr.faces.track import Track
from basicsr.inference.video_scan import Scan, Scanner
from basicsr.recognizers import load_recognizer
from basicsr.utils.img_util import Image, img2tensor, imread

pytest.importorskip("av", reason="PyAV is not installed: pip install 'av>=14.2'")

SIZE = (270, 480)  # px, height and width of the canvas
ANN, BEA, CID = range(3)
CROSSING, ELSEWHERE, BACK = range(30), range(30, 38), range(38, 62)  # frames of the three shots
NOISE = 5.0  # of 255


class Shown(NamedTuple):
    """A face on the canvas."""

    person: int
    photo: int
    x: float  # px, of its middle
    y: float
    side: float  # px, of the aligned crop


def shown_in(frame: int) -> list[Shown]:
    """Who is where. The last of the list is in front."""
    if frame in CROSSING:
        return [
            Shown(CID, 0, 240, 215, 105),
            Shown(ANN, 0, 70 + 11 * frame, 80, 150),
            Shown(BEA, 0, 410 - 11 * frame, 84, 150),
        ]
    if frame in ELSEWHERE:  # where Ann was last
        return [Shown(CID, 1, 390, 80, 150)]
    since = frame - BACK.start
    return [
        Shown(ANN, 1, -50 + 12 * min(since, 14), 190, 150),  # comes in over the edge
        Shown(BEA, 0, 60 + 28 * int(np.clip(since - 6, 0, 12)), 75, 140),  # starts and stops at once
    ]


def canvas(frame: int, photos: Sequence[Sequence[Image]], rng: np.random.Generator) -> Image:
    """A frame, uint8 BGR, with noise."""
    shot = 1 if frame in ELSEWHERE else 0
    coarse = np.random.default_rng(shot).integers(60, 180, (6, 10, 3)).astype(np.float32)
    picture = cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    rows, columns = np.mgrid[:512, :512]
    oval = np.clip((1 - np.hypot((columns - 256) / 190, (rows - 265) / 235)) * 8, 0, 1).astype(np.float32)
    for face in shown_in(frame):
        scale = face.side / 512
        matrix = np.array([[scale, 0, face.x - 256 * scale], [0, scale, face.y - 256 * scale]])
        small = cv2.GaussianBlur(photos[face.person][face.photo], (0, 0), 0.5 / scale).astype(np.float32)
        mask = cv2.warpAffine(oval, matrix, SIZE[::-1])[..., None]
        picture = picture * (1 - mask) + cv2.warpAffine(small, matrix, SIZE[::-1]) * mask
    return np.clip(picture + rng.normal(0, NOISE, picture.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def scan(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Scan:
    """What is seen in a clip of three people, the first of whom is Ann."""
    folder, rng = tmp_path_factory.mktemp("clip"), np.random.default_rng(0)
    people = sorted(path for path in (test_data / "refsets").iterdir() if path.is_dir())[:3]
    photos = [[imread(path) for path in sorted((person / "refs").glob("*.png"))[:2]] for person in people]
    frames = [canvas(frame, photos, rng) for frame in range(BACK.stop)]
    clip = write_clip(folder / "clip.mp4", frames, [1000 * i for i in range(len(frames))], sound=None)
    detector = load_detector(test_data / "detectors/scrfd_2.5g_bnkps.onnx", max_side=480, num_threads=1)
    recognizer = load_recognizer(test_data / "recognizers/mobilefacenet_ms1m_128.onnx")

    @torch.inference_mode()
    def embed(crops: Sequence[Image]) -> Any:
        return recognizer(torch.stack([img2tensor(crop) for crop in crops])).embedding.numpy()

    return Scanner(detector, embed, size=256, threads=1).scan(clip, folder / "faces.jsonl")


def frames_of(person: int) -> set[int]:
    return {frame for frame in range(BACK.stop) if person in [face.person for face in shown_in(frame)]}


def track_of(scan: Scan, person: int) -> Track:
    """The track that is where a person is, at the first frame of Bea's."""
    place = next(face for face in shown_in(0) if face.person == person)
    return next(t for t in scan.tracks if t.frames[0] == 0 and t.boxes[0, 0] < place.x < t.boxes[0, 2])


@pytest.mark.slow
def test_each_person_is_one_track_over_crossings_cuts_and_absences(scan: Scan) -> None:
    assert scan.cuts == [ELSEWHERE.start, BACK.start]
    assert len(scan.tracks) == 3
    for person in (ANN, BEA, CID):
        seen, there = set(track_of(scan, person).frames), frames_of(person)
        assert seen <= there
        assert len(seen) >= 0.8 * len(there)  # Ann is behind Bea, and beyond the edge, for some frames
        places = {face.person: face for frame in [max(seen)] for face in shown_in(frame)}
        left, _, right, _ = track_of(scan, person).boxes[-1]
        assert left < places[person].x < right


@pytest.mark.slow
def test_landmarks_shake_less_and_do_not_lag_behind_a_sudden_move(scan: Scan) -> None:
    bea = track_of(scan, BEA)
    steady = steady_landmarks(bea, 1.5, scan.cuts, scan.tracks)
    found = dict(zip(bea.frames, bea.landmarks, strict=True))

    def errors(points: Any, frames: Sequence[int]) -> np.ndarray:
        """Landmarks less where the face was put, their mean taken off: (F, 5, 2), parts of the face's side."""
        places = [next(face for face in shown_in(frame) if face.person == BEA) for frame in frames]
        moved = np.stack([points[frame] - (face.x, face.y) for frame, face in zip(frames, places, strict=True)])
        return (moved - np.median(moved, axis=0)) / np.sqrt(np.prod(bea.boxes[0, 2:] - bea.boxes[0, :2]))

    evenly, suddenly = [frame for frame in CROSSING if frame in found], [frame for frame in BACK if frame in found]
    shaking = [np.linalg.norm(np.diff(errors(points, evenly), axis=0), axis=2).mean() for points in (found, steady)]
    assert shaking[1] < 0.6 * shaking[0]
    assert np.linalg.norm(errors(steady, suddenly), axis=2).mean() < 0.03
