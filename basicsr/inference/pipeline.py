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
from typing import Any, cast

import numpy as np
from tqdm import tqdm

from basicsr.inference.batch import restore_each, show_cost, whole_face
from basicsr.inference.gallery import Gallery, Match, mode_for, warn_of_strangers
from basicsr.inference.jobs import Job
from basicsr.inference.photo import crop_size, find_faces
from basicsr.inference.photo_entries import note_photo
from basicsr.inference.photo_files import stays_deep, write_photo
from basicsr.inference.restorer import FaceRestorer, References
from basicsr.inference.results_file import ResultsFile
from basicsr.inference.run_settings import OpenPhoto, Prepared, RunSettings
from basicsr.inference.values import check_square
from basicsr.utils.cli import progress
from basicsr.utils.errors import ImageFileError
from basicsr.utils.img_util import Image
from basicsr.utils.parallel import in_order
from basicsr.utils.picture import Picture, read_picture

logger = logging.getLogger(__name__)

ENCODED_KEPT = 16  # people whose encoded references are kept
WRITES_WAITING = 16  # results that may wait for the disk: bounds the memory,
BYTES_WAITING = 2**30  # as this does where photos are large


class Run:
    """One run; `restore` works off the jobs."""

    def __init__(self, restorer: FaceRestorer, settings: RunSettings, results: ResultsFile) -> None:
        self.restorer = restorer
        self.settings = settings
        self.results = results
        self.encodes = restorer.recognizer is not None and settings.mode in (None, "ref")
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
                            self._restore_batch(writers, bar)
                        bar.update()
                    while self._waiting:
                        self._restore_batch(writers, bar)
                    self._collect(all_of_them=True)
                except BaseException:
                    for _, write in self._writes:
                        write.cancel()
                    raise
            self.results.finish()
        except KeyboardInterrupt:
            logger.warning("stopped; --resume goes on from there, %s says what is done", self.results.path)
            raise
        finally:
            self._keep_what_is_written()
            self.results.write()

    def prepare(self, job: Job) -> Prepared:
        """Read a job's pictures and find its faces; for a thread."""
        picture = Picture(np.empty((0, 0, 3), np.uint8))
        try:
            refs = [self.settings.read_ref(path) for path in job.refs]
            picture = read_picture(job.path, deep=stays_deep(job, self.settings))
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
                logger.info("%s, face %d: nobody of the gallery, %s; restored blind", job.path, number, match.reason)
                refs.append(())
            else:
                refs.append(self._references(gallery.files_of(match.person), _photos_of(gallery, match.person)))
        return list(matches), refs

    def _references(self, files: tuple[Path, ...], read: Callable[[], Sequence[Image]]) -> References:
        """References as the networks take them; those of one person are encoded once."""
        if files in self._encoded:
            self._encoded.move_to_end(files)
            return self._encoded[files]
        photos: References = read()
        if self.encodes and files:
            photos = self.restorer.encode_references(cast(Sequence[Image], photos))
            if self.settings.gallery is None:  # the photos of a gallery were compared when it was read
                found = photos.embed[0].float().cpu().numpy()
                warn_of_strangers("references", files, found, self.settings.doubtful)
        self._encoded[files] = photos
        if len(self._encoded) > ENCODED_KEPT:
            self._encoded.popitem(last=False)
        return self._encoded[files]

    def _restore_batch(self, writers: ThreadPoolExecutor, bar: tqdm[Any]) -> None:
        """The next faces through the network; photos that are complete go to the writers."""
        batch = [self._waiting.popleft() for _ in range(min(self.settings.batch_size, len(self._waiting)))]
        start = time.perf_counter()
        crops = [photo.prepared.found[i].crop for photo, i, _ in batch]
        refs = [refs for _, _, refs in batch]
        modes = [mode_for(self.settings.mode, photo.matches[i]) for photo, i, _ in batch]
        faces = restore_each(self.restorer, crops, refs, modes, **self.settings.knobs)
        seconds = (time.perf_counter() - start) / len(batch)
        show_cost(bar, faces, seconds)
        for w in self.settings.grid:
            others = faces
            if w != self.settings.knobs["w"]:
                others = restore_each(self.restorer, crops, refs, modes, **{**self.settings.knobs, "w": w})
            for (photo, i, _), other in zip(batch, others, strict=True):
                photo.sweeps.setdefault(i, []).append((w, other))
        for (photo, i, _), face in zip(batch, faces, strict=True):
            photo.faces[i], photo.seconds[i] = face, seconds
            if i == len(photo.faces) - 1:  # faces wait in order: the last one completes its photo
                self._writes.append((photo, writers.submit(write_photo, photo, self.settings)))
        self._collect()
        self.results.write_when_due()

    def _collect(self, all_of_them: bool = False) -> None:
        """Take down what has been written; wait where too much waits for the disk."""
        while self._writes and (all_of_them or self._writes[0][1].done() or self._too_much_waits()):
            photo, write = self._writes[0]
            write.result()
            self._writes.popleft()
            note_photo(photo, self.settings, self.results)

    def _too_much_waits(self) -> bool:
        """Whether the disk is so far behind that the network has to wait for it."""
        num_bytes = sum(photo.prepared.picture.image.nbytes for photo, _ in self._writes)
        return len(self._writes) > WRITES_WAITING or (len(self._writes) > 1 and num_bytes > BYTES_WAITING)

    def _keep_what_is_written(self) -> None:
        """After a run was cut off: what the writers had finished."""
        for photo, write in self._writes:
            if write.done() and not write.cancelled() and write.exception() is None:
                note_photo(photo, self.settings, self.results)
        self._writes.clear()


def _photos_of(gallery: Gallery, person: str) -> Callable[[], Sequence[Image]]:
    """Reads the references of a person when asked."""
    return lambda: gallery.photos_of(person)
