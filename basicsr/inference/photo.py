"""Whole photos: faces found and aligned, restored in batches, painted back.

Shapes: H, W photo; C side of an aligned crop; S side of the network's picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np

from basicsr.faces import Face, FaceDetector, center_face, ffhq_matrix, warp_by
from basicsr.faces.align import Points
from basicsr.faces.parsing import FaceParser
from basicsr.faces.paste import Canvas, PlacedFace, draw_boxes, paste_faces
from basicsr.inference.gallery import Gallery, Match, mode_for
from basicsr.inference.restorer import FaceRestorer, References
from basicsr.inference.upsampler import Upsampler
from basicsr.inference.values import RestoredFace
from basicsr.models.identity_source import IdentityMode
from basicsr.utils.errors import ImageFileError, UserError
from basicsr.utils.img_util import MAX_SIDE, Image
from basicsr.utils.picture import shows_no_colour

MIN_CROP = 256  # px: a recogniser sees more in a crop than a small network does
MIN_STD = 1e-3  # of 255


class FoundFace(NamedTuple):
    """A face of a photo, cut out."""

    face: Face
    matrix: Points  # (2, 3), px of the photo to px of the crop
    crop: Image  # uint8 BGR (C, C, 3)


class PhotoFace(NamedTuple):
    """A face of a photo, restored."""

    found: FoundFace
    restored: RestoredFace
    match: Match | None  # None without a gallery

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom; px of the photo."""
        left, top, right, bottom = (float(value) for value in self.found.face.box)
        return left, top, right, bottom

    @property
    def person(self) -> str | None:
        """Who it is, of a gallery; None where nobody was clear enough."""
        return None if self.match is None else self.match.person

    @property
    def similarity_before(self) -> float | None:
        """Cosine of the degraded face to the references; None without any."""
        return self.restored.similarity_before

    @property
    def similarity_after(self) -> float | None:
        """Cosine of the restored face to the references; None without any."""
        return self.restored.similarity_after


class RestoredPhoto(NamedTuple):
    """A photo with its faces restored."""

    image: Image  # uint8 BGR (round(H * upscale), round(W * upscale), 3)
    faces: list[PhotoFace]


def crop_size(restorer: FaceRestorer) -> int:
    """Side of the crops that a restorer is given, px."""
    return max(restorer.size, MIN_CROP)


def find_faces(
    image: Image, detector: FaceDetector, size: int, only_center_face: bool = False, name: str = "a picture"
) -> list[FoundFace]:
    """The faces of a photo, from left to right, however small.

    Args:
        image: uint8 BGR (H, W, 3).
        size: side of the crops, px.
        name: stands in errors.
    Raises:
        ImageFileError: there is none.
    """
    faces: Sequence[Face] = detector.detect(image)
    if only_center_face:
        center = center_face(faces, (image.shape[0], image.shape[1]))
        faces = [] if center is None else [center]
    found = []
    for face in sorted(faces, key=lambda face: float(face.box[0] + face.box[2])):
        try:
            matrix = ffhq_matrix(face.landmarks, size)
        except ValueError as error:
            raise ImageFileError(f"{name}: a face cannot be aligned ({error}). Raise --detection_threshold.") from error
        found.append(FoundFace(face, matrix, warp_by(image, matrix, size)))
    if not found:
        raise ImageFileError(
            f"{name}: no face found. Lower --detection_threshold, raise --detect_size for small faces, or pass an "
            "aligned crop with --has_aligned."
        )
    return found


@dataclass(frozen=True)
class Painter:
    """How restored faces get back into their photo.

    Args:
        upscale: px of the result per px of the photo.
        parser: says which pixels are face; None: a soft oval.
        upsampler: enlarges the background; None: bicubic.
        face_upsampler: enlarges the restored faces, too.
        draw_box: a numbered box around each face.
        keep_gray: faces of gray photos are gray.
    """

    upscale: float = 1.0
    parser: FaceParser | None = None
    upsampler: Upsampler | None = None
    face_upsampler: Upsampler | None = None
    draw_box: bool = False
    keep_gray: bool = True

    def size_of(self, image: Canvas) -> tuple[int, int]:
        """(H, W) of the result for a photo."""
        return max(1, round(image.shape[0] * self.upscale)), max(1, round(image.shape[1] * self.upscale))

    @property
    def keeps_depth(self) -> bool:
        """Whether a photo of 16 bit stays one: upsamplers take and give 8, and OpenCV draws numbers into 8."""
        return self.upsampler is None and not self.draw_box

    def background(self, image: Canvas) -> Canvas:
        """The photo, uint8 or (see `keeps_depth`) uint16, enlarged, its faces as they were.

        Raises:
            ImageFileError: it would have a side above MAX_SIDE.
        """
        size = self.size_of(image)
        if max(size) > MAX_SIDE:
            raise ImageFileError(f"the result would have {size[1]}x{size[0]} px, at most {MAX_SIDE} a side: lower -s.")
        if self.upsampler is not None:
            return self.upsampler.enlarge_to(image, size)
        if size == image.shape[:2]:
            return image
        how = cv2.INTER_CUBIC if self.upscale > 1 else cv2.INTER_AREA
        return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=how), image.dtype)

    def alpha(self, alpha: Image | None) -> Image | None:
        """The transparency (H, W) of a photo, enlarged as the photo is."""
        if alpha is None:
            return None
        height, width = self.size_of(alpha)
        how = cv2.INTER_LINEAR if self.upscale > 1 else cv2.INTER_AREA  # no values beyond those there are
        return np.asarray(cv2.resize(alpha, (width, height), interpolation=how), np.uint8)

    def paint(
        self,
        image: Canvas,
        found: Sequence[FoundFace],
        restored: Sequence[Image],
        numbers: Sequence[int] | None = None,
    ) -> Canvas:
        """The photo, enlarged, with the restored faces (S, S, 3) in the places of those that were found.

        Args:
            image: uint8, or (see `keeps_depth`) uint16.
            numbers: that boxes are drawn with; None: 0, 1, ...
        """
        masks = self.parser.masks(restored) if self.parser is not None and restored else [None] * len(restored)
        placed = []
        for face, picture, mask in zip(found, restored, masks, strict=True):
            large = self.face_upsampler.enlarge(picture) if self.face_upsampler is not None else picture
            placed.append(PlacedFace(large, face.matrix, len(face.crop), mask))
        painted = paste_faces(self.background(image), placed, self.upscale)
        if self.keep_gray and shows_no_colour(image):
            painted = as_gray(painted)
        if not self.draw_box:
            return painted
        shown = range(len(found)) if numbers is None else numbers
        boxes = {number: face.face.box for number, face in zip(shown, found, strict=True)}
        return draw_boxes(painted, boxes, self.upscale)

    def toned(self, restored: Image, crop: Image, gray: bool) -> Image:
        """The restored face, gray with brightness and contrast of the degraded crop where the photo is gray."""
        return match_gray(restored, crop) if gray and self.keep_gray else restored


def as_gray(image: Canvas) -> Canvas:
    """Without colour, BGR (H, W, 3)."""
    return np.asarray(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR), image.dtype)


def match_gray(restored: Image, crop: Image) -> Image:
    """`restored` (S, S, 3) without colour, with the mean and standard deviation of `crop` (C, C, 3)."""
    gray = as_gray(restored).astype(np.float32)
    scale = float(crop.std()) / max(float(gray.std()), MIN_STD)
    return np.rint(np.clip((gray - gray.mean()) * scale + crop.mean(), 0, 255)).astype(np.uint8)


def restore_photos(
    restorer: FaceRestorer,
    photos: Sequence[tuple[str, Image]],
    refs: Sequence[References],
    detector: FaceDetector,
    gallery: Gallery | None,
    painter: Painter,
    only_center_face: bool,
    batch_size: int,
    mode: IdentityMode | None = None,
    **knobs: Any,
) -> list[RestoredPhoto]:
    """See `FaceRestorer.restore_photos`. `photos`: name and uint8 BGR (H, W, 3)."""
    if painter.upscale <= 0:
        raise UserError(f"upscale is {painter.upscale}, expected more than 0.")
    size = crop_size(restorer)
    found = [find_faces(image, detector, size, only_center_face, name) for name, image in photos]
    matches: list[Match | None] = []
    its_refs: list[References] = []
    for faces, given in zip(found, refs, strict=True):
        if gallery is None:
            matches += [None] * len(faces)
            its_refs += [given] * len(faces)
            continue
        of_photo = gallery.match(restorer.embed([face.crop for face in faces]).cpu().numpy())
        matches += of_photo
        its_refs += [gallery.photos_of(m.person) if m.person is not None else () for m in of_photo]
    crops = [face.crop for faces in found for face in faces]
    modes = [mode_for(mode, match) for match in matches]
    restored: list[RestoredFace] = []
    for i in range(0, len(crops), batch_size):
        part = slice(i, i + batch_size)
        restored += restorer.restore_batch(crops[part], its_refs[part], mode=modes[part], **knobs)
    results, rest = [], iter(zip(restored, matches, strict=True))
    for (_, image), faces in zip(photos, found, strict=True):
        joined = [PhotoFace(face, *parts) for face, parts in zip(faces, rest, strict=False)]
        gray = shows_no_colour(image)
        toned = [painter.toned(face.restored.image, face.found.crop, gray) for face in joined]
        results.append(RestoredPhoto(painter.paint(image, faces, toned), joined))
    return results
