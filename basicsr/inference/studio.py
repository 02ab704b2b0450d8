"""What a page with uploads asks for: pictures and knobs in, the photo before and after and a line per face out.

Knows nothing of the page itself; app.py is the page.

Shapes: H, W photo; S side of the network's picture.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from basicsr.faces import FaceDetector
from basicsr.inference.gallery import Gallery, Match, Person, mode_for
from basicsr.inference.photo import Painter
from basicsr.inference.references import aligned_reference
from basicsr.inference.restorer import FaceRestorer
from basicsr.inference.values import DOUBTFUL, RestoredFace, best_similarities, check_square
from basicsr.utils.errors import ImageFileError, UserError
from basicsr.utils.img_util import Image, decode, read_bytes

FOLDER_MARK = " - "  # a browser sends names alone: the page puts the folders before them, "Ann - holiday.jpg"
EMBEDDINGS_KEPT = 4096  # of gallery photos
VIEW_SIZE = 512  # px: the faces of small networks are shown enlarged to this


class Wish(NamedTuple):
    """What is to be done to a photo.

    refs: reference photos of one person, or people: photos of several by name; both are files.
    knobs: see `FaceRestorer.restore_batch`.
    """

    photo: Path
    refs: Sequence[Path]
    people: Mapping[str, Sequence[Path]]
    knobs: Mapping[str, Any]
    is_aligned: bool
    upscale: float = 1.0


class FaceLine(NamedTuple):
    """What is said of a face."""

    person: str
    mode: str
    before: str  # similarity to the references
    after: str
    guidance: str  # steps, similarity without and with it, and what to beware of


class Outcome(NamedTuple):
    """Two pictures of one size, uint8 BGR, and the faces from left to right."""

    before: Image
    after: Image
    faces: list[FaceLine]
    notes: Sequence[str] = ()  # photos of the gallery that could not be used


def read_upload(path: Path) -> Image:
    """A picture that was uploaded, uint8 BGR (H, W, 3); errors name the file as the person knows it."""
    return decode(read_bytes(path), path.name)


def people_by_name(files: Sequence[Path]) -> dict[str, list[Path]]:
    """The photos of each person of an uploaded gallery.

    The person is the folder, see FOLDER_MARK; a photo without one is called by the person, numbered where there are
    several: Ann.jpg, Ann_2.jpg.
    """
    people: dict[str, list[Path]] = {}
    for file in sorted(files):
        folder, mark, _ = file.name.partition(FOLDER_MARK)
        name = folder if mark else re.sub(r"[ _.(-]*\d+\)?$", "", file.stem)
        people.setdefault(name or file.stem, []).append(file)
    return people


class Studio:
    """A restorer with the detector of whole photos; None: aligned crops only."""

    def __init__(self, restorer: FaceRestorer, detector: FaceDetector | None) -> None:
        self.restorer = restorer
        self.detector = detector
        self.seconds_per_step: float | None = None  # of the latest guided photo: its time by the steps of its faces
        self.embedding_of = lru_cache(EMBEDDINGS_KEPT)(self._embedding_of)  # a gallery is asked for every photo

    def restore(self, wish: Wish) -> Outcome:
        """Restore a photo.

        Raises:
            UserError: a picture is none, or not of the kind that is needed; the text fits one line.
        """
        if wish.refs and wish.people:
            raise UserError("References and several people: who a face is would be said twice. Leave one out.")
        photo = read_upload(wish.photo)
        aligned = wish.is_aligned or self.detector is None
        refs = [self.read_reference(path, aligned) for path in wish.refs]
        gallery, notes = self.gallery_of(wish.people, aligned) if wish.people else (None, [])
        start = time.perf_counter()
        if aligned:
            pictures, faces = self._restore_crop(photo, wish, refs, gallery)
        else:
            pictures, faces = self._restore_photo(photo, wish, refs, gallery)
        steps = sum(face.guidance.report.steps for face, _ in faces if face.guidance is not None)
        if steps:
            self.seconds_per_step = (time.perf_counter() - start) / steps
        return Outcome(*pictures, [_line(face, match) for face, match in faces], notes)

    def seconds_of_guidance(self, steps: int) -> float | None:
        """What so many steps cost a face at most, by the latest guided photo; None before the first one."""
        return None if self.seconds_per_step is None else self.seconds_per_step * steps

    def _restore_photo(
        self, photo: Image, wish: Wish, refs: list[Image], gallery: Gallery | None
    ) -> tuple[tuple[Image, Image], list[tuple[RestoredFace, Match | None]]]:
        """The photo before and after, and its faces with whom each was taken for."""
        painter = Painter(upscale=wish.upscale)
        detector: Any = self.detector
        done = self.restorer.restore_photo(
            photo, refs, detector=detector, gallery=gallery, painter=painter, **wish.knobs
        )
        return (painter.background(photo), done.image), [(face.restored, face.match) for face in done.faces]

    def read_reference(self, path: Path, aligned: bool) -> Image:
        """The aligned face of a reference, uint8 BGR (S, S, 3)."""
        image = read_upload(path)
        if aligned or self.detector is None:
            check_square(image, path.name)
            return image
        return aligned_reference(image, self.detector.detect(image), path.name)

    def gallery_of(self, people: Mapping[str, Sequence[Path]], aligned: bool) -> tuple[Gallery, list[str]]:
        """The people that were uploaded, and a line for each photo that cannot be used.

        Raises:
            UserError: none can be used.
        """
        known, notes = [], []
        for name, files in people.items():
            embeddings = {}
            for path in files:
                try:
                    embeddings[path] = self.embedding_of(path, aligned)
                except ImageFileError as error:
                    notes.append(str(error))
            if embeddings:
                mean = np.mean(list(embeddings.values()), axis=0)
                known.append(Person(name, tuple(embeddings), mean / max(float(np.linalg.norm(mean)), 1e-6)))
        if not known:
            raise UserError(f"None of the photos of the people can be used. The first: {notes[0]}")
        return Gallery(known, lambda path: self.read_reference(path, aligned)), notes

    def _embedding_of(self, path: Path, aligned: bool) -> Any:
        return self.restorer.embed([self.read_reference(path, aligned)])[0].cpu().numpy()

    def _restore_crop(
        self, photo: Image, wish: Wish, refs: list[Image], gallery: Gallery | None
    ) -> tuple[tuple[Image, Image], list[tuple[RestoredFace, Match | None]]]:
        """The same of an aligned crop."""
        check_square(photo, wish.photo.name)
        match = None
        if gallery is not None:
            (match,) = gallery.match(self.restorer.embed([photo]).cpu().numpy())
            refs = [] if match.person is None else gallery.photos_of(match.person)
        knobs = {**wish.knobs, "mode": mode_for(wish.knobs.get("mode"), match)}
        face = self.restorer.restore(photo, refs, **knobs)
        side = max(VIEW_SIZE, self.restorer.size)
        return (_resized(photo, side), _resized(face.image, side)), [(face, match)]


def _resized(image: Image, side: int) -> Image:
    how = cv2.INTER_AREA if image.shape[0] > side else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (side, side), interpolation=how), np.uint8)


def _line(face: RestoredFace, match: Match | None) -> FaceLine:
    """Words for a face."""
    person = "" if match is None else match.person or f"nobody: {match.reason}"
    before, after = (
        "" if value is None else f"{value:.2f}" for value in (face.similarity_before, face.similarity_after)
    )
    return FaceLine(person, face.mode, before, after, describe_guidance(face))


def describe_guidance(face: RestoredFace) -> str:
    """Words for what guidance did to a face, and for references that may be of someone else."""
    words = []
    if face.guidance is not None:
        report = face.guidance.report
        change = f"{report.similarity_before:.2f} → {report.similarity_after:.2f}"
        words.append(f"{report.steps} steps: {change}")
        words += ["stopped at margin"] * report.stopped_at_margin + ["over-guided"] * face.guidance.over_guided
    if face.mode == "ref" and any(cosine < DOUBTFUL for cosine in best_similarities(face)):
        words.append("low similarity: the reference may show someone else")
    return ", ".join(words)
