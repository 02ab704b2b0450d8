"""A run over many pictures: read and detect ahead, restore in batches across photos, write behind.

Pictures are prepared by threads and results written by threads, so that the network is what a run waits for. What goes
wrong with a picture, a face or a reference is a line and an entry in results.json; nothing else is lost for it.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from basicsr.inference.batch import restore_each, whole_face
from basicsr.inference.comparison import comparison
from basicsr.inference.gallery import Gallery, Match
from basicsr.inference.jobs import Job
from basicsr.inference.photo import crop_size, find_faces
from basicsr.inference.restorer import FaceRestorer, References
from basicsr.inference.results_file import ResultsFile
from basicsr.inference.run_settings import OpenPhoto, Prepared, RunSettings
from basicsr.inference.values import RestoredFace, check_square
from basicsr.utils.cli import progress
from basicsr.utils.errors import ImageFileError
from basicsr.utils.img_util import Image
from basicsr.utils.parallel import in_order
from basicsr.utils.picture import Picture, read_picture, write_picture

logger = logging.getLogger(__name__)

ENCODED_KEPT = 16  # people whose encoded references are kept
WRITES_WAITING = 16  # results that may wait for the disk: bounds the memory


class Run:
    """One run; `restore` works off the jobs."""

    def __init__(self, restorer: FaceRestorer, settings: RunSettings, results: ResultsFile) -> None:
        self.restorer = restorer
        self.settings = settings
        self.results = results
        self.encodes = restorer.takes_identity and settings.mode in (None, "ref")
        self._waiting: deque[tuple[OpenPhoto, int, References]] = deque()  # faces for the network
        self._writes: deque[tuple[OpenPhoto, Future[None]]] = deque()
        self._encoded: OrderedDict[tuple[Path, ...], References] = OrderedDict()

    def restore(self, jobs: Sequence[Job]) -> None:
        """Restore. However the run ends, `results` is on disk and speaks of every picture that is."""
        threads = self.settings.threads
        try:
            with (
                progress(total=len(jobs), desc="restore") as bar,
                ThreadPoolExecutor(threads, "read") as readers,
                ThreadPoolExecutor(threads, "write") as writers,
            ):
                try:
                    ahead = threads + self.settings.batch_size
                    for prepared in in_order(readers, self.prepare, jobs, ahead):
                        self._enqueue(prepared)
                        while len(self._waiting) >= self.settings.batch_size:
                            self._restore_batch(writers)
                        bar.update()
                    while self._waiting:
                        self._restore_batch(writers)
                    self._collect(all_of_them=True)
                except BaseException:
                    for _, write in self._writes:
                        write.cancel()
                    raise
            self.results.finish()
        finally:
            self._keep_what_is_written()
            self.results.write()

    def prepare(self, job: Job) -> Prepared:
        """Read a job's pictures and find its faces; for a thread."""
        picture = Picture(np.empty((0, 0, 3), np.uint8))
        try:
            refs = [self.settings.read_ref(path) for path in job.refs]
            picture = read_picture(job.path)
            if self.settings.detector is None:
                check_square(picture.image, str(job.path))
                return Prepared(job, picture, [whole_face(picture.image)], refs)
            size, center = crop_size(self.restorer), self.settings.only_center_face
            return Prepared(
                job, picture, find_faces(picture.image, self.settings.detector, size, center, str(job.path)), refs
            )
        except ImageFileError as error:
            return Prepared(job, picture, [], [], error)

    def _enqueue(self, prepared: Prepared) -> None:
        """Put the faces of a photo in the queue, each with its references."""
        job, count = prepared.job, len(prepared.found)
        try:
            if prepared.error is not None:
                raise prepared.error
            matches, refs = self._identities(prepared)
        except ImageFileError as error:
            logger.error("%s", error)
            self.results.fail(job, error)
            return
        if count > 1 and job.refs and self.settings.gallery is None:
            logger.warning(
                "%s: %d faces, and the references are used for each of them. Take --only_center_face, or --ref_dir "
                "with a folder per person.", job.path, count,
            )  # fmt: skip
        photo = OpenPhoto(prepared, matches, [None] * count, [0.0] * count)
        self._waiting.extend((photo, i, refs[i]) for i in range(count))

    def _identities(self, prepared: Prepared) -> tuple[list[Match | None], list[References]]:
        """Who each face is, and the references to restore it with."""
        job, gallery, count = prepared.job, self.settings.gallery, len(prepared.found)
        if gallery is None:
            return [None] * count, [self._references(job.refs, lambda: prepared.refs)] * count
        matches = gallery.match(self.restorer.embed([face.crop for face in prepared.found]).cpu().numpy())
        refs: list[References] = []
        for number, match in enumerate(matches):
            if match.person is None:
                logger.info(
                    "%s, face %d: no person of the gallery, %s; restored without a reference",
                    job.path,
                    number,
                    match.reason,
                )
                refs.append(())
            else:
                refs.append(self._references(gallery.files_of(match.person), _photos_of(gallery, match.person)))
        return list(matches), refs

    def _references(self, files: tuple[Path, ...], read: Callable[[], Sequence[Image]]) -> References:
        """References as the networks take them; those of one person are encoded once."""
        if files in self._encoded:
            self._encoded.move_to_end(files)
            return self._encoded[files]
        photos = read()
        self._encoded[files] = self.restorer.encode_references(photos) if self.encodes and photos else photos
        if len(self._encoded) > ENCODED_KEPT:
            self._encoded.popitem(last=False)
        return self._encoded[files]

    def _restore_batch(self, writers: ThreadPoolExecutor) -> None:
        """The next faces through the network; photos that are complete go to the writers."""
        batch = [self._waiting.popleft() for _ in range(min(self.settings.batch_size, len(self._waiting)))]
        start = time.perf_counter()
        crops = [photo.prepared.found[i].crop for photo, i, _ in batch]
        refs = [refs for _, _, refs in batch]
        faces = restore_each(self.restorer, crops, refs, mode=self.settings.mode, **self.settings.knobs)
        seconds = (time.perf_counter() - start) / len(batch)
        for w in self.settings.grid:
            others = restore_each(
                self.restorer, crops, refs, mode=self.settings.mode, **{**self.settings.knobs, "w": w}
            )
            for (photo, i, _), other in zip(batch, others, strict=True):
                photo.sweeps.setdefault(i, []).append((w, other))
        for (photo, i, _), face in zip(batch, faces, strict=True):
            photo.faces[i], photo.seconds[i] = face, seconds
            if i == len(photo.faces) - 1:  # faces wait in order: the last one completes its photo
                self._writes.append((photo, writers.submit(self._write, photo)))
        self._collect()
        self.results.write_when_due()

    def _write(self, photo: OpenPhoto) -> None:
        """The pictures of a photo; for a thread. What cannot be written stops the run."""
        prepared, painter = photo.prepared, self.settings.painter
        job, picture = prepared.job, prepared.picture
        found, restored = [], []
        for i, (face, result) in enumerate(zip(prepared.found, photo.faces, strict=True)):
            if not isinstance(result, RestoredFace):
                continue
            toned = painter.toned(result.image, face.crop, picture.is_gray)
            found.append(face)
            restored.append(toned)
            if self.settings.detector is not None:
                write_picture(self.place(job, i, "cropped_faces"), Picture(face.crop), self.settings.quality)
                write_picture(self.place(job, i, "restored_faces"), Picture(toned), self.settings.quality)
        self._write_comparisons(photo)
        if not restored:
            return
        image, alpha = restored[0], None
        if self.settings.detector is not None:
            try:
                image, alpha = painter.paint(picture.image, found, restored), painter.alpha(picture.alpha)
            except ImageFileError as error:
                photo.error = ImageFileError(f"{job.path}: {error}")
                return
        gray = picture.is_gray and painter.keep_gray and not painter.draw_box
        write_picture(job.output, Picture(image, alpha, picture.icc, gray), self.settings.quality)

    def _write_comparisons(self, photo: OpenPhoto) -> None:
        """comparisons/<name>.png of aligned crops, comparisons/<name>_<NN>.png of the faces of a photo."""
        prepared, gallery = photo.prepared, self.settings.gallery
        for i, sweep in photo.sweeps.items():
            match, refs = photo.matches[i], prepared.refs
            if match is not None and match.person is not None and gallery is not None:
                refs = gallery.photos_of(match.person)
            drawn = comparison(prepared.found[i].crop, refs[0] if refs else None, sweep)
            if self.settings.detector is not None:
                path = self.place(prepared.job, i, "comparisons")
            else:
                below = prepared.job.output.relative_to(self.settings.folder / "restored_faces")
                path = self.settings.folder / "comparisons" / below.with_suffix(".png")
            write_picture(path, Picture(drawn), self.settings.quality)

    def place(self, job: Job, number: int, folder: str) -> Path:
        """Where a face of a photo goes: FOLDER/<name>_<NN>.png, beside final_results/<name>."""
        below = job.output.relative_to(self.settings.folder / "final_results")
        return self.settings.folder / folder / below.with_name(f"{below.stem}_{number:02d}.png")

    def _collect(self, all_of_them: bool = False) -> None:
        """Take down what has been written; wait where too much waits for the disk."""
        while self._writes and (all_of_them or self._writes[0][1].done() or len(self._writes) > WRITES_WAITING):
            photo, write = self._writes[0]
            write.result()
            self._writes.popleft()
            self._note(photo)

    def _keep_what_is_written(self) -> None:
        """After a run was cut off: what the writers had finished."""
        for photo, write in self._writes:
            if write.done() and not write.cancelled() and write.exception() is None:
                self._note(photo)
        self._writes.clear()

    def _note(self, photo: OpenPhoto) -> None:
        """Enter the faces of a written photo into the results."""
        job = photo.prepared.job
        self.results.begin(job)
        if photo.error is not None:
            logger.error("%s", photo.error)
            self.results.fail(job, photo.error)
            return
        for i, face in enumerate(photo.faces):
            more = self._facts(photo, i)
            if not isinstance(face, RestoredFace):
                error = ImageFileError(f"{job.path}: {face}")
                logger.error("%s", error)
                self.results.fail(job, error, **{k: v for k, v in more.items() if k in ("restored", "final", "face")})
                continue
            nearest = max(face.similarity_before or -1.0, face.similarity_after or -1.0)
            if face.mode == "ref" and nearest < self.settings.doubtful:
                logger.warning(
                    "%s: the similarity to the references is %.2f, below %g even after restoration: they may be of "
                    "someone else.", more.get("restored", job.output), nearest, self.settings.doubtful,
                )  # fmt: skip
                more["doubtful_reference"] = True
            self.results.add(job, face, photo.seconds[i], **more)

    def _facts(self, photo: OpenPhoto, number: int) -> dict[str, Any]:
        """What results.json says of a face besides its restoration."""
        job, match, gallery = photo.prepared.job, photo.matches[number], self.settings.gallery
        facts: dict[str, Any] = {"settings": self.settings.fingerprints.get(job.output, "")}
        if self.settings.detector is not None:
            face = photo.prepared.found[number].face
            facts |= {
                "restored": str(self.place(job, number, "restored_faces")),
                "final": str(job.output),
                "face": number,
                "box": [round(float(value), 1) for value in face.box],
                "score": round(face.score, 4),
            }
        if match is not None and gallery is not None:
            files = [str(path) for path in gallery.files_of(match.person)] if match.person is not None else []
            facts |= {
                "person": match.person,
                "match_similarity": match.similarity,
                "match_refused": match.reason or None,
                "refs": files,
                "compared_with": files,
            }
        return facts


def _photos_of(gallery: Gallery, person: str) -> Callable[[], Sequence[Image]]:
    """Reads the references of a person when asked."""
    return lambda: gallery.photos_of(person)
