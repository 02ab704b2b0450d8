"""From photos in folders named after people to aligned faces of one size."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

import _root  # noqa: F401
import cv2
from _prepare import Problems, is_whole

from basicsr.data.image_source import FileSource
from basicsr.faces import Face, center_face, warp_face
from basicsr.utils.cli import progress
from basicsr.utils.errors import ImageFileError, UserError
from basicsr.utils.img_util import IMAGE_SUFFIXES, Image, decode, imwrite
from basicsr.utils.text_util import is_utf8, shown

IN_FLIGHT_PER_WORKER = 8  # photos read ahead: bounds the memory however large the archive is
EMPTY, BAD_NAME = "person without a photo", "file name that is not UTF-8"
KEPT, MADE, NO_FACE, UNREADABLE = "kept", "made", "no face found", "unreadable"


def crop_settings(size: int, detect_size: int, score: float) -> dict[str, Any]:
    """What the pixels of a face depend on besides its photo."""
    return {"framing": "FFHQ", "size": size, "detect_size": detect_size, "score": score}


class FaceDetector(Protocol):
    """What is needed of a detector."""

    def detect(self, image: Image) -> list[Face]: ...


class Photo(NamedTuple):
    """One photo of the source."""

    person: str
    stem: str
    name: str  # in the source

    @property
    def crop(self) -> PurePosixPath:
        """Where its face goes, relative to the folder of the index."""
        return PurePosixPath(self.person) / f"{self.stem}.png"


class Outcome(NamedTuple):
    """What became of a photo; `detail` is the error of an unreadable one."""

    photo: Photo
    state: str
    detail: str = ""


def photos_of(names: Iterable[str], source: Path, problems: Problems) -> list[Photo]:
    """The photos among file names; the folder right above a photo is the person.

    Of one folder, a.jpg and a.png keep their suffixes, so that each has a crop of its own.

    Raises:
        UserError: there is none, or two folders of one name hold photos of one name.
    """
    path_of: dict[str, PurePosixPath] = {}
    for name in names:
        path = PurePosixPath(name)
        if (
            path.suffix.lower() not in IMAGE_SUFFIXES
            or path.name.startswith(".")
            or path.parent.name in ("", "..", ".")
        ):
            continue
        if is_utf8(name):
            path_of[name] = path
        else:
            problems.add(BAD_NAME, shown(name), "rename it")
    stems = Counter(path.with_suffix("") for path in path_of.values())
    photos: dict[PurePosixPath, Photo] = {}
    for name, path in path_of.items():
        photo = Photo(path.parent.name, path.stem if stems[path.with_suffix("")] == 1 else path.name, name)
        taken = photos.setdefault(photo.crop, photo)
        if taken is not photo:
            raise UserError(f"{source}: {taken.name} and {name} would both become {photo.crop}. Rename one of them.")
    if not photos:
        raise UserError(f"{source}: no photos in folders named after people ({', '.join(IMAGE_SUFFIXES)}).")
    return list(photos.values())


def note_empty_folders(source: Path, problems: Problems) -> None:
    """A person's folder without a photo; a folder of people has sub-folders."""
    for folder in sorted(path for path in source.rglob("*") if path.is_dir()) if source.is_dir() else ():
        if not any(child.is_dir() or child.suffix.lower() in IMAGE_SUFFIXES for child in folder.iterdir()):
            problems.add(EMPTY, shown(str(folder)))


def make_faces(
    source: FileSource, photos: Sequence[Photo], out: Path, size: int, detector: FaceDetector, workers: int
) -> Iterator[Outcome]:
    """Cut out every face that is not there yet. Threads: detection and warping leave Python's lock."""
    threads_before = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the workers are the parallelism
    waiting: deque[Future[Outcome]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for photo in progress(photos, desc="faces"):
            if is_whole(out / photo.crop, size):
                yield Outcome(photo, KEPT)
                continue
            try:
                data = source.read(photo.name)
            except ImageFileError as error:
                yield Outcome(photo, UNREADABLE, str(error))
                continue
            waiting.append(pool.submit(make_face, photo, data, out, size, detector))
            if len(waiting) >= workers * IN_FLIGHT_PER_WORKER:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        cv2.setNumThreads(threads_before)


def make_face(photo: Photo, data: bytes, out: Path, size: int, detector: FaceDetector) -> Outcome:
    """Detect, align, write. Of several faces the one nearest to the photo's centre is the person that LFW names."""
    try:
        image = decode(data, photo.name)
    except ImageFileError as error:
        return Outcome(photo, UNREADABLE, str(error))
    face = center_face(detector.detect(image), (image.shape[0], image.shape[1]))
    if face is None:
        return Outcome(photo, NO_FACE)
    try:
        aligned = warp_face(image, face.landmarks, size)
    except ValueError as error:
        return Outcome(photo, NO_FACE, str(error))
    imwrite(out / photo.crop, aligned)
    return Outcome(photo, MADE)
