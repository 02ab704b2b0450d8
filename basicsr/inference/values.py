"""What goes into a restorer and what comes out: photos, knobs, restored faces, and the checks of them.

Shapes: S side of the network's picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict, cast

import cv2
import numpy as np
import torch
from torch import Tensor

from basicsr.archs.identity_encoder_arch import IdentityFeatures
from basicsr.models.identity_guidance import GuidanceOptions, GuidanceReport
from basicsr.models.identity_source import IdentityMode
from basicsr.utils.errors import ImageFileError, UserError
from basicsr.utils.img_util import Image, imread

if TYPE_CHECKING:
    from typing_extensions import Required

    from basicsr.faces import FaceDetector
    from basicsr.inference.gallery import Gallery
    from basicsr.inference.photo import Painter

DOUBTFUL = 0.2  # cosine of hardly the same person

Photo = Image | str | Path  # uint8 BGR (H, W, 3), or a file
References = Photo | Sequence[Photo] | IdentityFeatures  # of one person; the last is what encode_references() made
Device = Literal["auto", "cpu", "cuda", "mps"]


class Knobs(NamedTuple):
    """What a face was restored with; None where the knob had nothing to act on."""

    w: float
    adain: bool
    w_id: float | None  # None without an identity, as in the mode none
    id_scale: float | None


class FaceGuidance(NamedTuple):
    """What identity guidance did to a face."""

    report: GuidanceReport
    over_guided: bool  # more similar to the reference than two images of one person usually are
    unguided: tuple[float, ...]  # similarity of the unguided result to each reference
    offset: Tensor  # (L, K), see `FaceRestorer.restore_batch`


class KnobOptions(TypedDict, total=False):
    """The keywords of `FaceRestorer.restore_batch`, which says what they do."""

    w: float
    w_id: float
    id_scale: float
    mode: IdentityMode | None
    adain: bool | None
    guide: int | GuidanceOptions | None


class PhotoOptions(KnobOptions, total=False):
    """The keywords of `FaceRestorer.restore_photos`, which says what they do."""

    detector: Required[FaceDetector]
    gallery: Gallery | None
    painter: Painter | None
    only_center_face: bool
    batch_size: int


class RestoredFace(NamedTuple):
    """A restored face and what is known of its identity. Similarities are cosines of the network's own recogniser.

    The mode is none, whatever was asked for, where E_LQ finds no identity in the degraded photo.
    """

    image: Image  # uint8 BGR (S, S, 3)
    mode: IdentityMode
    similarity_before: float | None  # degraded photo to the references, the mean; None without any
    similarity_after: float | None  # restored face to the references
    knobs: Knobs
    each_reference: tuple[tuple[float, float], ...] = ()  # the two similarities to each of several references
    guidance: FaceGuidance | None = None  # None without guidance


def describe_face(
    image: Image,
    mode: IdentityMode,
    before: Sequence[float],
    after: Sequence[float],
    knobs: Knobs,
    guidance: FaceGuidance | None,
) -> RestoredFace:
    """A restored face with its cosines to each of its references before and after; empty without any."""
    means = [sum(cosines) / len(cosines) if cosines else None for cosines in (before, after)]
    return RestoredFace(image, mode, means[0], means[1], knobs, tuple(zip(before, after, strict=True)), guidance)


def best_similarities(face: RestoredFace) -> list[float]:
    """The higher similarity to each reference, before and after restoration; low ones are warned of.

    Of a guided face the result without guidance counts: guidance makes any face similar to its reference.
    """
    if face.guidance is None:
        return [max(cosines) for cosines in face.each_reference]
    pairs = zip(face.each_reference, face.guidance.unguided, strict=True)
    return [max(before, unguided) for (before, _), unguided in pairs]


def mode_in_use(asked: IdentityMode | None, has_ref: bool) -> IdentityMode:
    """Where the identity of a face comes from, given what was asked for and what there is."""
    if asked in ("self", "none"):
        return asked
    return "ref" if has_ref else "self"


def choose_device(name: Device) -> torch.device:
    """The device of that name; "auto" takes cuda, then mps, then cpu."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    if not available[name]:
        usable = ", ".join(kind for kind, there in available.items() if there)
        raise UserError(f"--device {name}: there is none on this machine. Usable: auto, {usable}.")
    return torch.device(name)


def check_knobs(w: float, w_id: float, id_scale: float) -> None:
    """Refuse knobs that would give a broken picture without a word.

    Raises:
        UserError: one is not finite, or w or w_id is negative.
    """
    for name, value in (("w", w), ("w_id", w_id)):
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"{name} is {value}, expected a finite number of at least 0.")
    if not math.isfinite(id_scale):
        raise UserError(f"id_scale is {id_scale}, expected a finite number (1 is plain).")


def check_square(image: Image, name: str) -> None:
    """Refuse what is no aligned crop: resized to a square, such a face would be squashed.

    Raises:
        ImageFileError: the picture is not square.
    """
    height, width = image.shape[:2]
    if height != width:
        raise ImageFileError(
            f"{name}: {width}x{height} px, expected a square crop of an aligned face. Crop it to the FFHQ framing."
        )


def read_photo(photo: Photo) -> tuple[str, Image]:
    """The name of a photo for errors, and its pixels, uint8 BGR (H, W, 3).

    Raises:
        ImageFileError: the file cannot be read, or the array is no such picture.
    """
    if isinstance(photo, str | Path):
        return str(photo), imread(photo)
    if not isinstance(photo, np.ndarray):
        raise ImageFileError(f"a picture is a {type(photo).__name__}, expected a file or a uint8 BGR array (H, W, 3).")
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or 0 in photo.shape:
        raise ImageFileError(f"a picture is {photo.dtype} {photo.shape}, expected uint8 BGR (H, W, 3), 0..255.")
    return "a picture", photo


def read_aligned(photo: Photo, size: int) -> Image:
    """An aligned face brought to `size` px, uint8 BGR (S, S, 3).

    Raises:
        ImageFileError: see `read_photo`; or it is not square.
    """
    name, image = read_photo(photo)
    check_square(image, name)
    if len(image) == size:
        return image
    how = cv2.INTER_AREA if len(image) > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size, size), interpolation=how), np.uint8)


def one_for_each(refs: Sequence[References], num_photos: int) -> Sequence[References]:
    """The references of each photo; an empty list stands for none at all.

    Raises:
        UserError: there are not as many as photos.
    """
    if len(refs) not in (0, num_photos):
        raise UserError(f"{num_photos} photos and {len(refs)} lists of references: expected one for each, or none.")
    return refs if len(refs) else [()] * num_photos


def as_list(refs: Photo | Sequence[Photo]) -> list[Photo]:
    """Photos one by one: a single file or picture is one of them, not a row of letters or of pixel rows."""
    if isinstance(refs, str | Path) or (isinstance(refs, np.ndarray) and refs.ndim < 4):
        return [refs]
    return list(cast(Sequence[Photo], refs))
