"""A segment of a video: its faces cut out by threads, restored in batches over frames, painted back and encoded behind.

Shapes: H, W frame.
"""

from __future__ import annotations

import json
import logging
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from basicsr.faces import Face, ffhq_matrix, warp_by
from basicsr.faces.detect import Array
from basicsr.faces.track import Track
from basicsr.inference.batch import restore_each
from basicsr.inference.gallery import Match, mode_for
from basicsr.inference.photo import FoundFace, crop_size
from basicsr.inference.restorer import FaceRestorer, References
from basicsr.inference.run_settings import RunSettings
from basicsr.inference.values import RestoredFace
from basicsr.inference.video_file import Frame
from basicsr.inference.video_write import SegmentWriter, even
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import Image
from basicsr.utils.parallel import in_order
from basicsr.utils.picture import Picture, shows_no_colour, write_picture
from basicsr.utils.text_util import write_text

logger = logging.getLogger(__name__)

FRAMES_WAITING = 8  # painted or waiting to be: bounds the memory


class TrackPlan(NamedTuple):
    """A track and how it is restored."""

    track: Track
    best_frame: int  # the clearest view of it
    match: Match | None  # None without a gallery
    files: tuple[Path, ...]  # of the references
    refs: References
    landmarks: Mapping[int, Array]  # (5, 2) px by frame, steadied


@dataclass
class Figures:
    """What is known of a track's restored faces. Sums go over frames."""

    count: int = 0
    failed: int = 0
    error: str | None = None  # of the first that failed
    before: float = 0.0  # sum of similarities
    after: float = 0.0
    num_compared: int = 0
    seconds: float = 0.0
    mode: str = "none"  # of the last, as are the knobs
    knobs: list[Any] = field(default_factory=list)

    def add(self, face: RestoredFace | UserError, seconds: float) -> None:
        self.seconds += seconds
        if not isinstance(face, RestoredFace):
            self.failed += 1
            self.error = self.error or str(face)
            return
        self.count += 1
        self.mode, self.knobs = face.mode, list(face.knobs)
        if face.similarity_before is not None and face.similarity_after is not None:
            self.before += face.similarity_before
            self.after += face.similarity_after
            self.num_compared += 1

    def take_in(self, later: Figures) -> None:
        """Add those of a later segment."""
        for name in ("count", "failed", "before", "after", "num_compared", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(later, name))
        self.error = self.error or later.error
        if later.count:
            self.mode, self.knobs = later.mode, later.knobs


def read_figures(path: Path) -> dict[int, Figures]:
    """The figures of a segment, by track."""
    contents = json.loads(path.read_text(encoding="utf-8"))
    return {int(number): Figures(**entry) for number, entry in contents.items()}


@dataclass
class OpenFrame:
    """A frame of which some faces still wait for the network."""

    number: int
    image: Image
    plans: list[TrackPlan]
    found: list[FoundFace]
    faces: list[RestoredFace | UserError | None]


class SegmentRun:
    """Restores one segment.

    Args:
        place: file for a track's picture in the folder of that name.
    """

    def __init__(
        self,
        restorer: FaceRestorer,
        settings: RunSettings,
        plans: Sequence[TrackPlan],
        place: Callable[[int, str], Path],
        crf: int,
        colours: dict[str, Any],
    ) -> None:
        self.restorer = restorer
        self.settings = settings
        self.plans = plans
        self.place = place
        self.crf = crf
        self.colours = colours
        self.figures: dict[int, Figures] = {}
        self._open: deque[OpenFrame] = deque()
        self._waiting: deque[tuple[OpenFrame, int]] = deque()
        self._writes: deque[Future[None]] = deque()
        self._writer: SegmentWriter | None = None  # made for the first frame, which says the size

    def run(self, part: Path, frames: Iterable[tuple[int, Frame]], after_frame: Callable[[], Any]) -> None:
        """Write the segment to `part` and its figures beside it. `frames`: numbered from the start of the video."""
        threads = self.settings.threads
        with ThreadPoolExecutor(threads, "read") as readers, ThreadPoolExecutor(1, "write") as writer:
            try:
                for frame in in_order(readers, self._prepare, frames, threads + 1):
                    self._open.append(frame)
                    self._waiting.extend((frame, i) for i in range(len(frame.found)))
                    while len(self._waiting) >= self.settings.batch_size:
                        self._restore_batch()
                    self._hand_over(writer, part)
                    after_frame()
                while self._waiting:
                    self._restore_batch()
                self._hand_over(writer, part)
                while self._writes:
                    self._writes.popleft().result()
                if self._writer is not None:
                    # the figures first: a part that has its name is complete
                    entries = {number: asdict(figures) for number, figures in self.figures.items()}
                    write_text(part.with_suffix(".json"), json.dumps(entries))
                    self._writer.close()
            except BaseException:
                for write in self._writes:
                    write.cancel()
                writer.shutdown(wait=True)
                if self._writer is not None:
                    self._writer.abandon()
                raise

    def _prepare(self, numbered: tuple[int, Frame]) -> OpenFrame:
        """Cut the faces out of a frame; for a thread."""
        number, frame = numbered
        size = crop_size(self.restorer)
        plans, found = [], []
        for plan in self.plans:
            if number in plan.landmarks:
                points = plan.landmarks[number]
                matrix = ffhq_matrix(points, size)
                box = np.concatenate([points.min(0), points.max(0)]).astype(np.float32)
                place = bisect_left(plan.track.frames, number)
                if plan.track.frames[place] == number:
                    box = plan.track.boxes[place]
                face = Face(box, 1.0, points.astype(np.float32))
                plans.append(plan)
                found.append(FoundFace(face, matrix, warp_by(frame.image, matrix, size)))
        return OpenFrame(number, frame.image, plans, found, [None] * len(found))

    def _restore_batch(self) -> None:
        """The next faces through the network."""
        batch = [self._waiting.popleft() for _ in range(min(self.settings.batch_size, len(self._waiting)))]
        start = time.perf_counter()
        crops = [frame.found[i].crop for frame, i in batch]
        refs = [frame.plans[i].refs for frame, i in batch]
        modes = [mode_for(self.settings.mode, frame.plans[i].match) for frame, i in batch]
        faces = restore_each(self.restorer, crops, refs, modes, **self.settings.knobs)
        seconds = (time.perf_counter() - start) / len(batch)
        for (frame, i), face in zip(batch, faces, strict=True):
            frame.faces[i] = face
            self.figures.setdefault(frame.plans[i].track.number, Figures()).add(face, seconds)

    def _hand_over(self, writer: ThreadPoolExecutor, part: Path) -> None:
        """Give frames that are complete to the writer, in order; wait where too many wait for it."""
        while self._open and None not in self._open[0].faces:
            self._writes.append(writer.submit(self._write, self._open.popleft(), part))
        while self._writes and (self._writes[0].done() or len(self._writes) > FRAMES_WAITING):
            self._writes.popleft().result()

    def _write(self, frame: OpenFrame, part: Path) -> None:
        """Paint the faces into a frame and encode it; for the one thread that writes."""
        painter, gray = self.settings.painter, shows_no_colour(frame.image)
        found, restored, numbers = [], [], []
        for plan, face, result in zip(frame.plans, frame.found, frame.faces, strict=True):
            if not isinstance(result, RestoredFace):
                continue  # the face stays as it was, and the figures say so
            found.append(face)
            numbers.append(plan.track.number)
            restored.append(painter.toned(result.image, face.crop, gray))
            if frame.number == plan.best_frame:
                pictures = {"cropped_faces": face.crop, "restored_faces": restored[-1]}
                for folder, picture in pictures.items():
                    write_picture(self.place(plan.track.number, folder), Picture(picture), self.settings.quality)
        picture = even(painter.paint(frame.image, found, restored, numbers))
        if self._writer is None:
            self._writer = SegmentWriter(part, (picture.shape[0], picture.shape[1]), self.colours, self.crf)
        self._writer.write(picture)
