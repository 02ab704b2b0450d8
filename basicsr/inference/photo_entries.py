"""What results.json says of the faces of a photo, and what is said aloud of them."""

from __future__ import annotations

import logging
from typing import Any

from basicsr.inference.photo_files import face_path
from basicsr.inference.results_file import ResultsFile
from basicsr.inference.run_settings import OpenPhoto, RunSettings
from basicsr.inference.values import RestoredFace, best_similarities
from basicsr.utils.errors import ImageFileError

logger = logging.getLogger(__name__)


def note_photo(photo: OpenPhoto, settings: RunSettings, results: ResultsFile) -> None:
    """Enter the faces of a photo that has been written into the results."""
    job = photo.prepared.job
    results.begin(job)
    if photo.error is not None:
        logger.error("%s", photo.error)
        results.fail(job, photo.error)
        return
    for i, face in enumerate(photo.faces):
        facts = _facts(photo, i, settings)
        if not isinstance(face, RestoredFace):
            error = ImageFileError(f"{job.path}: {face}")
            logger.error("%s", error)
            results.fail(job, error, **{k: v for k, v in facts.items() if k in ("restored", "final", "face")})
            continue
        doubtful = _doubtful(photo, i, face, settings)
        if doubtful:
            facts["doubtful_references"] = doubtful
        if face.guidance is not None and face.guidance.over_guided:
            logger.warning(
                "%s, face %d: over-guided: similarity %.2f to its references, more than two images of one person "
                "usually have. Lower --guide.", job.path, i, face.guidance.report.similarity_after,
            )  # fmt: skip
        results.add(job, face, photo.seconds[i], **facts)


def _files(photo: OpenPhoto, number: int, settings: RunSettings) -> list[str]:
    """The references of a face."""
    match, gallery = photo.matches[number], settings.gallery
    if match is None or gallery is None:
        return [str(path) for path in photo.prepared.job.refs]
    return [] if match.person is None else [str(path) for path in gallery.files_of(match.person)]


def _doubtful(photo: OpenPhoto, number: int, face: RestoredFace, settings: RunSettings) -> list[str]:
    """The references of low similarity to a face, see `best_similarities`; they are warned of."""
    if face.mode != "ref":
        return []
    doubtful = []
    for file, cosine in zip(_files(photo, number, settings), best_similarities(face), strict=True):
        if cosine < settings.doubtful:
            doubtful.append(file)
            logger.warning(
                "%s, face %d: low similarity to %s: %.2f, below %g even after restoration%s. It may show someone else.",
                photo.prepared.job.path, number, file, cosine, settings.doubtful,
                "" if face.guidance is None else " without guidance",
            )  # fmt: skip
    return doubtful


def _facts(photo: OpenPhoto, number: int, settings: RunSettings) -> dict[str, Any]:
    """What results.json says of a face besides its restoration."""
    job, match = photo.prepared.job, photo.matches[number]
    facts: dict[str, Any] = {"settings": settings.fingerprints.get(job.output, "")}
    if settings.detector is not None:
        face = photo.prepared.found[number].face
        facts |= {
            "restored": str(face_path(settings, job, number, "restored_faces")),
            "final": str(job.output),
            "face": number,
            "box": [round(float(value), 1) for value in face.box],
            "score": round(face.score, 4),
        }
    if match is not None:
        files = _files(photo, number, settings)
        result = photo.faces[number]
        mode = result.mode if isinstance(result, RestoredFace) else None
        facts |= {
            "person": match.person,
            "match_similarity": match.similarity,
            "match_refused": match.reason or None,
            "refs": files if mode == "ref" else [],
            "compared_with": files,
        }
    return facts
