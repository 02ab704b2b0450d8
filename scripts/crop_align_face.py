"""Photos -> aligned square face crops in FFHQ framing, the input of training and of --has_aligned.

    python scripts/crop_align_face.py -i photos -o photos_aligned --detector scrfd_2.5g_bnkps.onnx --size 512

Writes <out>/<folder>/<photo>.png for each photo of the folder, sub-folders included (with --faces all
<photo>_00.png, _01.png, ...), and two tables: faces.csv (crop, photo, score, box, distance of the eyes, share of the
crop that lies outside of the photo) and skipped.csv (photo, reason). What lies outside is filled as --border says.
Run again with the same settings it goes on where it was interrupted (<out>/journal.jsonl). Leaves with 0; with 1 when a
photo could not be read or has no face; with 2 on a user's fault or when no face was found at all.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import _root  # noqa: F401 - puts the repository root on sys.path, refuses a foreign basicsr
import numpy as np
from _prepare import claim_folder, run_in_processes

from basicsr.faces import (
    Border,
    Face,
    FaceDetector,
    center_face,
    ffhq_matrix,
    largest_face,
    load_detector,
    share_outside,
    warp_by,
)
from basicsr.utils.cli import run_main
from basicsr.utils.csv_util import write_rows
from basicsr.utils.errors import ImageFileError, UserError
from basicsr.utils.img_util import imread, imwrite, list_images

logger = logging.getLogger("crop_align_face")

NO_FACE = "no face found"
Record = dict[str, Any]  # one line of the journal: photo, crops, reason


class Settings(NamedTuple):
    """What decides how a crop looks; all crops of a folder have the same."""

    detector: str
    score_threshold: float | None
    nms_threshold: float
    detect_size: int
    size: int
    faces: str
    border: Border


class Photo(NamedTuple):
    """A photo and where its crop goes, without the suffix."""

    path: Path
    crop: Path


class Worker:
    """What a process keeps: the detector, loaded once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.detector: FaceDetector = load_detector(
            settings.detector,
            score_threshold=settings.score_threshold,
            nms_threshold=settings.nms_threshold,
            max_side=settings.detect_size,
            num_threads=1,
        )

    def crop(self, photo: Photo) -> Record:
        """Detect, align and write the faces of a photo."""
        record: Record = {"photo": str(photo.path), "crops": [], "reason": ""}
        try:
            image = imread(photo.path)
        except ImageFileError as error:
            return record | {"reason": str(error)}
        faces = self._chosen(self.detector.detect(image), (image.shape[0], image.shape[1]))
        if not faces:
            return record | {"reason": NO_FACE}
        for number, face in enumerate(faces):
            stem = f"{photo.crop.name}_{number:02d}" if self.settings.faces == "all" else photo.crop.name
            try:
                matrix = ffhq_matrix(face.landmarks, self.settings.size)
            except ValueError as error:
                return record | {"reason": str(error)}
            path = photo.crop.with_name(f"{stem}.png")
            imwrite(path, warp_by(image, matrix, self.settings.size, self.settings.border))
            outside = share_outside(matrix, self.settings.size, (image.shape[0], image.shape[1]))
            record["crops"].append(describe(path, photo, face, outside))
        return record

    def _chosen(self, faces: Sequence[Face], image_size: tuple[int, int]) -> list[Face]:
        if self.settings.faces == "all":
            return sorted(faces, key=lambda face: float(face.box[0] + face.box[2]))  # from left to right
        one = largest_face(faces) if self.settings.faces == "largest" else center_face(faces, image_size)
        return [] if one is None else [one]


_worker: list[Worker] = []  # of this process


def start_worker(settings: Settings) -> None:
    """What a new process does first."""
    _worker[:] = [Worker(settings)]


def crop_photo(photo: Photo) -> Record:
    """`Worker.crop` of this process."""
    return _worker[0].crop(photo)


def describe(path: Path, photo: Photo, face: Face, outside: float) -> dict[str, str]:
    """A row of faces.csv."""
    left, top, right, bottom = (f"{value:.1f}" for value in face.box)
    eyes = float(np.linalg.norm(face.landmarks[0] - face.landmarks[1]))
    return {
        "path": str(path), "photo": str(photo.path), "score": f"{face.score:.3f}", "left": left, "top": top,
        "right": right, "bottom": bottom, "eye_distance": f"{eyes:.1f}", "outside": f"{outside:.3f}",
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, 1 or 2 as the text above says."""
    args = parse_args(argv)
    settings = Settings(
        args.detector, args.score_threshold, args.nms_threshold, args.detect_size, args.size, args.faces, args.border
    )
    photos = find_photos(args.input_path, args.output_path)
    claim_folder(args.output_path, settings._asdict())
    journal = args.output_path / "journal.jsonl"
    done = read_journal(journal)
    todo = [photo for photo in photos if str(photo.path) not in done]
    start = partial(start_worker, settings)
    if todo and args.workers > 1:
        start()  # here first, so that a broken detector file is one line and not a broken pool
    with journal.open("a", encoding="utf-8") as file:
        for record in run_in_processes(crop_photo, todo, args.workers, "faces", start):
            done[record["photo"]] = record
            file.write(json.dumps(record) + "\n")
            file.flush()
    records = [done[str(photo.path)] for photo in photos]
    return write_tables(args.output_path, records, len(photos) - len(todo), settings)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line; values that cannot be raise UserError."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--input_path", type=Path, required=True, help="folder of photos")
    parser.add_argument("-o", "--output_path", type=Path, required=True, help="folder of the crops; made if missing")
    parser.add_argument("--detector", default="retinaface_resnet50", help="file, insightface pack or upstream's name")
    parser.add_argument("--score_threshold", type=float, help="default: the usual one of the detector")
    parser.add_argument("--nms_threshold", type=float, default=0.4, help="overlap of one face (default: %(default)s)")
    parser.add_argument("--detect_size", type=int, default=640, help="px of the longer side (default: %(default)s)")
    parser.add_argument("--size", type=int, default=512, help="side of a crop, px (default: %(default)s)")
    parser.add_argument("--faces", choices=["largest", "center", "all"], default="largest", help="which of a photo")
    parser.add_argument(
        "--border", choices=["gray", "edge", "reflect"], default="gray", help="fill outside (default: upstream's gray)"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    args = parser.parse_args(argv)
    for name, low in (("size", 16), ("workers", 1)):
        if getattr(args, name) < low:
            raise UserError(f"--{name} {getattr(args, name)}: at least {low} is needed.")
    return args


def find_photos(source: Path, out: Path) -> list[Photo]:
    """The photos below `source`; two of one stem keep their suffixes, so that each has a crop of its own."""
    paths = list_images(source)
    keys = Counter(path.with_suffix("") for path in paths)
    below = [(path, path.relative_to(source)) for path in paths]
    return [Photo(p, out / (b if keys[p.with_suffix("")] > 1 else b.with_suffix(""))) for p, b in below]


def read_journal(journal: Path) -> dict[str, Record]:
    """What earlier runs have done and is still there, by photo; a line that a kill cut off does not count."""
    done: dict[str, Record] = {}
    for line in journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record["crops"] and all(Path(crop["path"]).exists() for crop in record["crops"]):
            done[record["photo"]] = record
    return done


def write_tables(out: Path, records: Sequence[Record], num_kept: int, settings: Settings) -> int:
    """faces.csv, skipped.csv and the summary. Returns the exit code."""
    rows = [crop for record in records for crop in record["crops"]]
    skipped = [{"photo": record["photo"], "reason": record["reason"]} for record in records if record["reason"]]
    for name, lines in (("faces.csv", rows), ("skipped.csv", skipped)):
        if lines:
            write_rows(out / name, lines)
        else:
            (out / name).unlink(missing_ok=True)
    for line in skipped:
        if line["reason"] != NO_FACE:
            logger.error("%s", line["reason"])
    faceless = sum(line["reason"] == NO_FACE for line in skipped)
    partly = sum(float(row["outside"]) > 0 for row in rows)
    logger.info(
        "%d photos (%d done before): %d faces; %d without a face, %d not usable%s",
        len(records), num_kept, len(rows), faceless, len(skipped) - faceless,
        f" ({out / 'skipped.csv'})" if skipped else "",
    )  # fmt: skip
    logger.info("%d crops reach beyond their photo, filled by: %s (share per crop: faces.csv)", partly, settings.border)
    if not rows:
        return 2
    return 1 if skipped else 0


if __name__ == "__main__":
    run_main(main)
