"""The first look at a video: the faces of every frame, kept in a journal from which an interrupted look goes on.

The journal has a line of JSON for each frame and a last one for the end. Embeddings stand in it as base64 of float32,
beside a tiny view of the frame that tells where a shot begins. It is read line by line, since it may be large.
"""

from __future__ import annotations

import base64
import json
import logging
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, NamedTuple

import cv2
import numpy as np

from basicsr.faces import Face, FaceDetector, center_face, ffhq_matrix, warp_by
from basicsr.faces.detect import Array
from basicsr.faces.track import Track, Tracker
from basicsr.inference.video_file import Frame, read_frames, video_facts
from basicsr.utils.cli import progress
from basicsr.utils.errors import ImageFileError, UserError
from basicsr.utils.img_util import Image
from basicsr.utils.parallel import in_order

logger = logging.getLogger(__name__)

Embed = Callable[[Sequence[Image]], Array]  # aligned faces -> (N, E), unit length

VIEW = (16, 9)  # px, columns and rows of the tiny view of a frame
MIN_ALIKE = 0.6  # correlation of the views of two frames, below which a shot begins between them
VIEW_NOISE = 4.0  # gray levels, 0..255, that say nothing: two black frames are alike


@dataclass
class Scan:
    """What a video shows."""

    pts: array[int] = field(default_factory=lambda: array("q"))  # of each frame
    durations: array[int] = field(default_factory=lambda: array("q"))
    cuts: list[int] = field(default_factory=list)  # frames with which a shot begins, but for the first
    tracks: list[Track] = field(default_factory=list)  # one for each person
    error: str | None = None  # what is damaged or missing
    last_view: Array | None = None

    def times(self) -> list[tuple[int, int]]:
        """When each frame is shown and for how long: until the next one."""
        gaps = [later - sooner for sooner, later in pairwise(self.pts)]
        last = self.durations[-1] or (int(np.median(gaps)) if gaps else 1)
        return list(zip(self.pts, [*gaps, last], strict=True))


class Look(NamedTuple):
    """What was seen in a frame."""

    pts: int
    duration: int
    view: Image  # uint8 gray (9, 16)
    faces: list[Face]
    crops: list[Image]  # of the faces, for the recogniser


class Scanner:
    """Finds the faces of a video.

    Args:
        embed: None: the network has no recogniser, and faces are followed by their boxes alone.
        size: side of the crops that the recogniser sees, px.
    """

    def __init__(
        self, detector: FaceDetector, embed: Embed | None, size: int, only_center_face: bool = False, threads: int = 2
    ) -> None:
        self.detector = detector
        self.embed = embed
        self.size = size
        self.only_center_face = only_center_face
        self.threads = threads

    def scan(self, source: Path, journal: Path) -> Scan:
        """Look at every frame that the journal does not know yet.

        Raises:
            ImageFileError: the video cannot be opened or has no frame.
        """
        scan, tracker = Scan(), Tracker()
        num_lines = whole_bytes = 0
        complete = False
        for line, num_bytes in _known_lines(journal):
            _take(line, scan, tracker)
            num_lines, whole_bytes, complete = num_lines + 1, whole_bytes + num_bytes, "end" in line
        if not complete:
            total = video_facts(source).num_frames
            with journal.open("ab") as file, progress(total=total, desc="find faces") as bar:
                file.truncate(whole_bytes)  # a line that a kill cut off
                bar.update(num_lines)
                for line in self._new_lines(source, num_lines):
                    _append(file, line, journal)
                    _take(line, scan, tracker)
                    bar.update("end" not in line)
        scan.tracks = tracker.people()
        return scan

    def _new_lines(self, source: Path, first: int) -> Iterator[dict[str, Any]]:
        """The journal from frame `first` on."""
        number, error = first, None
        with ThreadPoolExecutor(self.threads, "detect") as pool:
            try:
                for look in in_order(pool, self._look, read_frames(source, first), self.threads + 1):
                    embeddings = self.embed(look.crops) if self.embed is not None and look.crops else None
                    yield _line(look, embeddings)
                    number += 1
            except ImageFileError as broken:
                if number == 0:
                    raise
                error = str(broken)
        yield {"end": number, "error": error}

    def _look(self, frame: Frame) -> Look:
        """Faces of a frame from left to right, cut out for the recogniser; for a thread."""
        faces: Sequence[Face] = self.detector.detect(frame.image)
        if self.only_center_face:
            center = center_face(faces, (frame.image.shape[0], frame.image.shape[1]))
            faces = [] if center is None else [center]
        usable, crops = [], []
        for face in sorted(faces, key=lambda face: float(face.box[0] + face.box[2])):
            try:
                matrix = ffhq_matrix(face.landmarks, self.size)
            except ValueError as error:
                logger.warning("a face at time stamp %d cannot be aligned (%s) and is left out", frame.pts, error)
                continue
            usable.append(face)
            crops.append(warp_by(frame.image, matrix, self.size) if self.embed is not None else frame.image)
        view = cv2.resize(cv2.cvtColor(frame.image, cv2.COLOR_BGR2GRAY), VIEW, interpolation=cv2.INTER_AREA)
        return Look(frame.pts, frame.duration, np.asarray(view, np.uint8), usable, crops)


def _line(look: Look, embeddings: Array | None) -> dict[str, Any]:
    """A frame as the journal has it."""
    entries = []
    for i, face in enumerate(look.faces):
        known = embeddings[i].astype("<f4").tobytes() if embeddings is not None else b""
        entries.append(
            {
                "box": face.box.astype(float).tolist(),
                "score": float(face.score),
                "landmarks": face.landmarks.astype(float).ravel().tolist(),
                "embedding": base64.b64encode(known).decode(),
            }
        )
    view = base64.b64encode(look.view.tobytes()).decode()
    return {"pts": look.pts, "duration": look.duration, "view": view, "faces": entries}


def _take(line: dict[str, Any], scan: Scan, tracker: Tracker) -> None:
    """A line of the journal into the result."""
    if "end" in line:
        scan.error = line["error"]
        return
    faces, embeddings = [], []
    for entry in line["faces"]:
        landmarks = np.array(entry["landmarks"], np.float32).reshape(5, 2)
        faces.append(Face(np.array(entry["box"], np.float32), entry["score"], landmarks))
        embeddings.append(np.frombuffer(base64.b64decode(entry["embedding"]), "<f4"))
    known = np.stack(embeddings) if embeddings and len(embeddings[0]) else None
    number, view = len(scan.pts), np.frombuffer(base64.b64decode(line["view"]), np.uint8).astype(np.float32)
    if scan.last_view is not None and not alike(scan.last_view, view):
        scan.cuts.append(number)
    scan.last_view = view
    tracker.update(number, faces, known, cut=scan.cuts[-1:] == [number])
    scan.pts.append(line["pts"])
    scan.durations.append(line["duration"])


def _append(file: IO[bytes], line: dict[str, Any], journal: Path) -> None:
    """Add a line that a kill a moment later does not lose."""
    try:
        file.write(json.dumps(line).encode() + b"\n")
        file.flush()
    except OSError as error:
        raise UserError(f"{journal}: cannot be written ({error.strerror}).") from error


def alike(view: Array, other: Array) -> bool:
    """Whether two frames are of one shot: their tiny views (16*9,) correlate; a flash does not end a shot."""
    one, two = view - view.mean(), other - other.mean()
    noise = VIEW_NOISE**2
    shared = float((one * two).mean()) + noise
    return shared >= MIN_ALIKE * float(np.sqrt(((one**2).mean() + noise) * ((two**2).mean() + noise)))


def _known_lines(journal: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """The whole lines of a journal, up to one that a kill or a power cut has spoilt, and the bytes that each takes."""
    if not journal.is_file():
        return
    with journal.open("rb") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                return
            if not line.endswith(b"\n"):
                return
            yield entry, len(line)
