"""A segment of a video: its faces cut out by threads, restored in batches over frames, painted back and encoded behind.

Shapes: H, W frame.
"""

from __future__ import annotations

import json
import logging
import time
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from tqdm import tqdm

from basicsr.faces import Face, ffhq_matrix, warp_by
from basicsr.faces.detect import Array
from basicsr.faces.track import Track
from basicsr.inference.batch import restore_each, show_cost
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
SUMS = (
    "count", "failed", "before", "after", "num_compared", "num_guided", "steps", "guided_before", "guided_after", "kl",
    "num_at_margin", "unguided", "seconds",
)  # fmt: skip


class TrackPlan(NamedTuple):
    """A track and how it is restored."""

    track: Track
    best_frame: int  # the clearest view of it
    match: Match | None  # None without a gallery
    files: tuple[Path, ...]  # of the references
    refs: References
    landmarks: Mapping[int, Array]  # (5, 2) px by frame, steadied


class GuidanceMeans(NamedTuple):
    """Means of `GuidanceReport` over frames; stopped_at_margin is the share of the frames that did."""

    steps: float
    similarity_before: float
    similarity_after: float
    kl: float
    stopped_at_margin: float


@dataclass
class Figures:
    """What is known of a track's restored faces. Sums go over frames."""

    count: int = 0
    failed: int = 0
    error: str | None = None  # of the first that failed
    before: float = 0.0  # sum of similarities
    after: float = 0.0
    num_compared: int = 0
    num_guided: int = 0  # of them the sums of what guidance did:
    steps: int = 0
    guided_before: float = 0.0
    guided_after: float = 0.0
    kl: float = 0.0
    num_at_margin: int = 0
    unguided: float = 0.0  # mean similarity of the unguided result to each reference
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
        if face.guidance is not None:
            report, unguided = face.guidance.report, face.guidance.unguided
            self.num_guided += 1
            self.steps += report.steps
            self.guided_before += report.similarity_before
            self.guided_after += report.similarity_after
            self.kl += report.kl
            self.num_at_margin += report.stopped_at_margin
            self.unguided += sum(unguided) / len(unguided)

    def take_in(self, later: Figures) -> None:
        """Add those of a later segment."""
        for name in SUMS:
            setattr(self, name, getattr(self, name) + getattr(later, name))
        self.error = self.error or later.error
        if later.count:
            self.mode, self.knobs = later.mode, later.knobs

    @property
    def guidance(self) -> GuidanceMeans | None:
        """What guidance did to the track; None without guidance."""
        sums = (self.steps, self.guided_before, self.guided_after, self.kl, self.num_at_margin)
        return GuidanceMeans(*(value / self.num_guided for value in sums)) if self.num_guided else None


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
        cuts: frames with which shots begin, rising.
    """

    def __init__(
        self,
        restorer: FaceRestorer,
        settings: RunSettings,
        plans: Sequence[TrackPlan],
        place: Callable[[int, str], Path],
        crf: int,
        colours: dict[str, Any],
        cuts: Sequence[int] = (),
    ) -> None:
        self.restorer = restorer
        self.settings = settings
        self.plans = plans
        self.place = place
        self.crf = crf
        self.colours = colours
        self.cuts = cuts
        self.figures: dict[int, Figures] = {}
        self._open: deque[OpenFrame] = deque()
        self._waiting: deque[tuple[OpenFrame, int]] = deque()
        self._writes: deque[Future[None]] = deque()
        # by track: the shot and the guidance of its latest face. Not kept from segment to segment, so that a video does
        # not depend on where a run was interrupted
        self._offsets: dict[int, tuple[int, Tensor]] = {}
        self._writer: SegmentWriter | None = None  # made for the first frame, which says the size

    def run(self, part: Path, frames: Iterable[tuple[int, Frame]], bar: tqdm[Any]) -> None:
        """Write the segment to `part` and its figures beside it. `frames`: numbered from the start of the video."""
        threads = self.settings.threads
        with ThreadPoolExecutor(threads, "read") as readers, ThreadPoolExecutor(1, "write") as writer:
            try:
                for frame in in_order(readers, self._prepare, frames, threads + 1):
                    self._open.append(frame)
                    self._waiting.extend((frame, i) for i in range(len(frame.found)))
                    while len(self._waiting) >= self.settings.batch_size:
                        self._restore_batch(bar)
                    self._hand_over(writer, part)
                    bar.update()
                while self._waiting:
                    self._restore_batch(bar)
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

    def _restore_batch(self, bar: tqdm[Any]) -> None:
        """The next faces through the network."""
        batch = [self._waiting.popleft() for _ in range(min(self.settings.batch_size, len(self._waiting)))]
        start = time.perf_counter()
        crops = [frame.found[i].crop for frame, i in batch]
        refs = [frame.plans[i].refs for frame, i in batch]
        modes = [mode_for(self.settings.mode, frame.plans[i].match) for frame, i in batch]
        starts = [self._start(frame, i) for frame, i in batch]
        faces = restore_each(self.restorer, crops, refs, modes, starts, **self.settings.knobs)
        seconds = (time.perf_counter() - start) / len(batch)
        show_cost(bar, faces, seconds)
        for (frame, i), face in zip(batch, faces, strict=True):
            number = frame.plans[i].track.number
            frame.faces[i] = face
            self.figures.setdefault(number, Figures()).add(face, seconds)
            if isinstance(face, RestoredFace) and face.guidance is not None:
                self._offsets[number] = (bisect_right(self.cuts, frame.number), face.guidance.offset)

    def _start(self, frame: OpenFrame, i: int) -> Tensor | None:
        """The offset of the latest face of this track and shot, so that the identity does not flicker."""
        shot, offset = self._offsets.get(frame.plans[i].track.number, (None, None))
        return offset if shot == bisect_right(self.cuts, frame.number) else None

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
