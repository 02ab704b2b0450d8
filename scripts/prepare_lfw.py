"""LFW, or any folder or tar with one sub-folder per person -> aligned faces and an index, split by identity.

    python scripts/prepare_lfw.py --source lfw.tgz --detector scrfd_2.5g_bnkps.onnx --out datasets/lfw64 --size 64

Writes <out>/<person>/<photo>.png in FFHQ framing, <out>/index.csv (path,identity,split), and <out>/skipped.csv with the
photos that gave no face and the reason. Run again with the same settings it keeps the faces that are there, so an
interrupted run goes on. Leaves with 0; with 1 when a photo could not be read; with 2 on a user's fault.

FFHQ framing spans about 250 px of an LFW photo and meets its edge: what lies outside is filled with a constant colour.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

import _root  # noqa: F401 - puts the repository root on sys.path, refuses a foreign basicsr
import cv2

from basicsr.data.image_source import FileSource, open_source
from basicsr.faces import Face, ScrfdDetector, center_face, warp_face
from basicsr.utils.cli import progress, run_main
from basicsr.utils.errors import ImageFileError, UserError
from basicsr.utils.img_util import IMAGE_SUFFIXES, Image, decode, imread, imwrite

logger = logging.getLogger("prepare_lfw")

SETTINGS_FILE = "settings.json"
IN_FLIGHT_PER_WORKER = 8  # photos read ahead: bounds the memory however large the archive is
KEPT, MADE, NO_FACE, UNREADABLE = "kept", "made", "no face found", "unreadable"


class FaceDetector(Protocol):
    """What this tool needs of a detector."""

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


def main(argv: list[str] | None = None) -> int:
    """Exit code 1 when a photo could not be read, else 0."""
    args = parse_args(argv)
    detector = ScrfdDetector(args.detector, args.score_threshold, max_side=args.detect_size, num_threads=1)
    return prepare(args, detector)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line; values that cannot be raise UserError."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder or tar with <person>/<photo> at any depth")
    parser.add_argument("--detector", type=Path, required=True, help="SCRFD .onnx with landmarks, e.g. det_10g.onnx")
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set; made if missing")
    parser.add_argument("--size", type=int, default=64, help="side of a face, px (default: %(default)s)")
    parser.add_argument("--min_photos", type=int, default=2, help="leave out people with fewer (default: %(default)s)")
    parser.add_argument("--val_people", type=float, default=0.1, help="share of the people (default: %(default)s)")
    parser.add_argument("--test_people", type=float, default=0.1, help="share of the people (default: %(default)s)")
    parser.add_argument("--limit_people", type=int, help="take only so many people, for a quick run")
    parser.add_argument("--seed", type=int, default=0, help="of the order that gives people their splits")
    parser.add_argument("--score_threshold", type=float, default=0.5, help="of the detector (default: %(default)s)")
    parser.add_argument("--detect_size", type=int, default=320, help="the detector sees the photo at this size, px")
    parser.add_argument("--workers", type=int, default=2, help="threads (default: %(default)s)")
    args = parser.parse_args(argv)
    for name, low in (("size", 16), ("detect_size", 32), ("min_photos", 1), ("workers", 1), ("limit_people", 1)):
        value = getattr(args, name)
        if value is not None and value < low:
            raise UserError(f"--{name} {value}: at least {low} is needed.")
    if min(args.val_people, args.test_people) < 0 or args.val_people + args.test_people >= 1:
        raise UserError(
            f"--val_people {args.val_people} --test_people {args.test_people}: expected shares of the people, 0 or "
            "more, that leave some for training."
        )
    return args


def prepare(args: argparse.Namespace, detector: FaceDetector) -> int:
    """Everything but the detector's construction. Returns the exit code."""
    start = time.perf_counter()
    with open_source(args.source) as source:
        every_photo = photos_of(source.names, args.source)
        people = chosen_people(every_photo, args.min_photos, args.limit_people, args.seed)
        if not people:
            raise UserError(f"{args.source}: nobody has {args.min_photos} photos. Lower --min_photos.")
        claim_folder(args)
        wanted = set(people)
        photos = [photo for photo in every_photo if photo.person in wanted]
        outcomes = list(make_faces(source, photos, args.out, args.size, detector, args.workers))
    faces = [outcome.photo for outcome in outcomes if outcome.state in (KEPT, MADE)]
    have = Counter(photo.person for photo in faces)
    people = [person for person in people if have[person] >= args.min_photos]  # some may have lost photos
    if not people:
        raise UserError(f"{args.source}: nobody has {args.min_photos} photos with a face that the detector finds.")
    split_of = split_people(people, args.val_people, args.test_people)
    write_index(args.out, faces, split_of)
    write_skipped(args.out, outcomes)
    log_summary(args.out, outcomes, faces, split_of, time.perf_counter() - start)
    return int(any(outcome.state == UNREADABLE for outcome in outcomes))


def photos_of(names: Iterable[str], source: Path) -> list[Photo]:
    """The photos among file names; the folder right above a photo is the person."""
    photos: dict[PurePosixPath, Photo] = {}
    for name in names:
        path = PurePosixPath(name)
        person = path.parent.name
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith(".") or person in ("", "..", "."):
            continue
        photo = Photo(person, path.stem, name)
        taken = photos.setdefault(photo.crop, photo)
        if taken is not photo:
            raise UserError(f"{source}: {taken.name} and {name} would both become {photo.crop}. Rename one of them.")
    if not photos:
        raise UserError(f"{source}: no photos in folders named after people ({', '.join(IMAGE_SUFFIXES)}).")
    return list(photos.values())


def chosen_people(photos: Sequence[Photo], min_photos: int, limit: int | None, seed: int) -> list[str]:
    """People with enough photos, in an order that depends on the seed and their names alone.

    So a person's place among others stays the same when people join or leave, and splits change as little as possible.
    """
    count = Counter(photo.person for photo in photos)
    enough = [person for person in count if count[person] >= min_photos]
    enough.sort(key=lambda person: hashlib.sha256(f"{seed}:{person}".encode()).digest())
    return enough[:limit]


def split_people(people: Sequence[str], val_share: float, test_share: float) -> dict[str, str]:
    """Person -> split. A split with a share above 0 gets somebody, unless there is nobody left to train."""
    num_test = max(round(len(people) * test_share), int(test_share > 0))
    num_val = max(round(len(people) * val_share), int(val_share > 0))
    if num_test + num_val >= len(people):
        raise UserError(f"{len(people)} people are too few for three splits. Take more, or set --val_people 0.")
    splits = ["test"] * num_test + ["val"] * num_val + ["train"] * (len(people) - num_test - num_val)
    return dict(zip(people, splits, strict=True))


def claim_folder(args: argparse.Namespace) -> None:
    """Make the folder, or check that the faces in it were made with the same settings: they are kept, never mixed."""
    out, file = args.out, args.out / SETTINGS_FILE
    wanted = {"framing": "FFHQ", "size": args.size, "detect_size": args.detect_size, "score": args.score_threshold}
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            if any(out.iterdir()):
                raise UserError(f"{out}: holds other files already. Take another --out.")
            file.write_text(json.dumps(wanted) + "\n", encoding="utf-8")
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{out}: cannot be used ({error.strerror}).") from error
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error}). Remove the folder and run again.") from error
    if found != wanted:
        raise UserError(f"{out}: was made with {found}, now asked for {wanted}. Take another --out or remove it.")


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


def is_whole(path: Path, size: int) -> bool:
    """Whether an earlier run has made this face."""
    try:
        return path.exists() and imread(path).shape == (size, size, 3)
    except ImageFileError:
        return False


def write_index(out: Path, faces: Iterable[Photo], split_of: dict[str, str]) -> None:
    """index.csv, sorted, so that the same faces give the same file whatever order the archive has."""
    rows = [(str(f.crop), f.person, split_of[f.person]) for f in faces if f.person in split_of]
    write_csv(out / "index.csv", ("path", "identity", "split"), sorted(rows))


def write_skipped(out: Path, outcomes: Iterable[Outcome]) -> None:
    """skipped.csv: the photos without a face in the set, and why."""
    rows = [(o.photo.name, o.state, o.detail) for o in outcomes if o.state in (NO_FACE, UNREADABLE)]
    write_csv(out / "skipped.csv", ("photo", "reason", "detail"), sorted(rows))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write under a temporary name, then rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    os.replace(temporary, path)


def log_summary(
    out: Path, outcomes: Sequence[Outcome], faces: Sequence[Photo], split_of: dict[str, str], seconds: float
) -> None:
    """Counts per split, and every photo that is missing from them."""
    states = Counter(outcome.state for outcome in outcomes)
    pictures = Counter(split_of[face.person] for face in faces if face.person in split_of)
    people = Counter(split_of.values())
    for split in ("train", "val", "test"):
        logger.info("%-5s %5d people %6d photos", split, people[split], pictures[split])
    logger.info(
        "%d photos: %d made, %d kept, %d without a face, %d unreadable (%s); %d left out, their person has too few",
        len(outcomes),
        states[MADE],
        states[KEPT],
        states[NO_FACE],
        states[UNREADABLE],
        out / "skipped.csv",
        len(faces) - sum(pictures.values()),
    )
    logger.info("%s: %.1f s, %.1f photos/s", out / "index.csv", seconds, len(outcomes) / seconds)


if __name__ == "__main__":
    run_main(main)
