"""What a page with uploads asks for: pictures and knobs in, the photo before and after and a line per face out.

Knows nothing of the page itself; app.py is the page.

Shapes: H, W photo; S side of the network's picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from basicsr.faces import FaceDetector
from basicsr.inference.gallery import Gallery, Match, Person, mode_for
from basicsr.inference.photo import Painter
from basicsr.inference.references import aligned_reference
from basicsr.inference.restorer import FaceRestorer
from basicsr.inference.values import RestoredFace, check_square
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import Image, decode, read_bytes

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


class Outcome(NamedTuple):
    """Two pictures of one size, uint8 BGR, and the faces from left to right."""

    before: Image
    after: Image
    faces: list[FaceLine]


def read_upload(path: Path) -> Image:
    """A picture that was uploaded, uint8 BGR (H, W, 3); errors name the file as the person knows it."""
    return decode(read_bytes(path), path.name)


class Studio:
    """A restorer with the detector of whole photos; None: aligned crops only."""

    def __init__(self, restorer: FaceRestorer, detector: FaceDetector | None) -> None:
        self.restorer = restorer
        self.detector = detector

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
        gallery = self.gallery_of(wish.people, aligned) if wish.people else None
        if aligned:
            return self._restore_crop(photo, wish, refs, gallery)
        painter = Painter(upscale=wish.upscale)
        detector: Any = self.detector
        done = self.restorer.restore_photo(
            photo, refs, detector=detector, gallery=gallery, painter=painter, **wish.knobs
        )
        lines = [_line(face.restored, face.match) for face in done.faces]
        return Outcome(painter.background(photo), done.image, lines)

    def read_reference(self, path: Path, aligned: bool) -> Image:
        """The aligned face of a reference, uint8 BGR (S, S, 3)."""
        image = read_upload(path)
        if aligned or self.detector is None:
            check_square(image, path.name)
            return image
        return aligned_reference(image, self.detector.detect(image), path.name)

    def gallery_of(self, people: Mapping[str, Sequence[Path]], aligned: bool) -> Gallery:
        """The people that were uploaded."""
        faces: dict[Path, Image] = {}
        known = []
        for name, files in people.items():
            faces |= {path: self.read_reference(path, aligned) for path in files}
            embeddings = np.concatenate([self.restorer.embed([faces[path]]).cpu().numpy() for path in files])
            mean = embeddings.mean(0)
            known.append(Person(name, tuple(files), mean / np.linalg.norm(mean)))
        return Gallery(known, faces.__getitem__)

    def _restore_crop(self, photo: Image, wish: Wish, refs: list[Image], gallery: Gallery | None) -> Outcome:
        check_square(photo, wish.photo.name)
        match = None
        if gallery is not None:
            (match,) = gallery.match(self.restorer.embed([photo]).cpu().numpy())
            refs = [] if match.person is None else gallery.photos_of(match.person)
        knobs = {**wish.knobs, "mode": mode_for(wish.knobs.get("mode"), match)}
        face = self.restorer.restore(photo, refs, **knobs)
        side = max(VIEW_SIZE, self.restorer.size)
        return Outcome(_resized(photo, side), _resized(face.image, side), [_line(face, match)])


def _resized(image: Image, side: int) -> Image:
    how = cv2.INTER_AREA if image.shape[0] > side else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (side, side), interpolation=how), np.uint8)


def _line(face: RestoredFace, match: Match | None) -> FaceLine:
    """Words for a face."""
    person = "" if match is None else match.person or f"nobody: {match.reason}"
    before, after = (
        "" if value is None else f"{value:.2f}" for value in (face.similarity_before, face.similarity_after)
    )
    return FaceLine(person, face.mode, before, after)
