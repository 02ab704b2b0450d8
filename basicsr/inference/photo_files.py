"""The pictures of a photo on disk: the photo itself, its faces before and after, and comparisons. For a thread."""

from __future__ import annotations

import errno
from pathlib import Path

from basicsr.inference.comparison import comparison
from basicsr.inference.jobs import Job
from basicsr.inference.run_settings import OpenPhoto, RunSettings
from basicsr.inference.values import RestoredFace
from basicsr.utils.deep_picture import DEEP_KINDS, to_eight
from basicsr.utils.errors import ImageFileError
from basicsr.utils.picture import FORMATS, Picture, write_picture


def stays_deep(job: Job, settings: RunSettings) -> bool:
    """Whether a photo of 16 bit is restored to one: not as an aligned crop, all of which is the network's."""
    holds = FORMATS.get(job.output.suffix.lower()) in DEEP_KINDS
    return settings.detector is not None and settings.painter.keeps_depth and holds


def face_path(settings: RunSettings, job: Job, number: int, folder: str) -> Path:
    """Where a face of a photo goes: FOLDER/<name>_<NN>.png, beside final_results/<name>."""
    below = job.output.relative_to(settings.folder / "final_results")
    return settings.folder / folder / below.with_name(f"{below.stem}_{number:02d}.png")


def write_photo(photo: OpenPhoto, settings: RunSettings) -> None:
    """The pictures of a photo whose faces have all been through the network.

    Raises:
        ImageFileError: one cannot be written, which ends the run. What is wrong with this photo alone is noted in it.
    """
    try:
        _write_all(photo, settings)
    except ImageFileError as error:
        if not is_of_one_photo(error):
            raise
        photo.error = error


def is_of_one_photo(error: ImageFileError) -> bool:
    """Whether a picture could not be written for its size or its name; a full disk is no fault of the photo."""
    cause = error.__cause__  # that of an encoder has no number
    return isinstance(cause, ValueError) or (isinstance(cause, OSError) and cause.errno in (None, errno.ENAMETOOLONG))


def _write_all(photo: OpenPhoto, settings: RunSettings) -> None:
    prepared, painter = photo.prepared, settings.painter
    job, picture = prepared.job, prepared.picture
    found, restored, numbers = [], [], []
    for i, (face, result) in enumerate(zip(prepared.found, photo.faces, strict=True)):
        if not isinstance(result, RestoredFace):
            continue
        toned = painter.toned(result.image, face.crop, picture.is_gray)
        found.append(face)
        restored.append(toned)
        numbers.append(i)
        if settings.detector is not None:
            write_picture(face_path(settings, job, i, "cropped_faces"), Picture(face.crop), settings.quality)
            write_picture(face_path(settings, job, i, "restored_faces"), Picture(toned), settings.quality)
    _write_comparisons(photo, settings)
    if not restored:
        return
    done = Picture(restored[0], None, picture.icc, picture.is_gray and painter.keep_gray)
    if settings.detector is not None:
        try:
            photo_in = picture.image if picture.deep is None else picture.deep
            painted = painter.paint(photo_in, found, restored, numbers)
        except ImageFileError as error:
            photo.error = ImageFileError(f"{job.path}: {error}")
            return
        done = Picture(
            to_eight(painted), painter.alpha(picture.alpha), picture.icc, done.is_gray and not painter.draw_box,
            None if picture.deep is None else painted,
        )  # fmt: skip
    write_picture(job.output, done, settings.quality)


def _write_comparisons(photo: OpenPhoto, settings: RunSettings) -> None:
    """comparisons/<name>.png of aligned crops, comparisons/<name>_<NN>.png of the faces of a photo."""
    prepared, gallery = photo.prepared, settings.gallery
    for i, sweep in photo.sweeps.items():
        match, refs = photo.matches[i], prepared.refs
        if match is not None and match.person is not None and gallery is not None:
            refs = gallery.photos_of(match.person)
        drawn = comparison(prepared.found[i].crop, refs[0] if refs else None, sweep)
        if settings.detector is not None:
            path = face_path(settings, prepared.job, i, "comparisons")
        else:
            below = prepared.job.output.relative_to(settings.folder / "restored_faces")
            path = settings.folder / "comparisons" / below.with_suffix(".png")
        write_picture(path, Picture(drawn), settings.quality)
