"""Photos in one sub-folder per person -> an index, and aligned faces where the photos are not aligned yet.

    python scripts/prepare_folder.py --source my_photos --detector det_10g.onnx --size 512 --out datasets/mine
    python scripts/prepare_folder.py --source my_faces --aligned --out datasets/mine

Without --aligned every photo goes through the detector and <out>/<person>/<photo>.png is its face in FFHQ framing. With
--aligned the pictures are faces in that framing already: they stay where they are, or with --size are copied at that
size. Either way <out>/index.csv (path,identity,split) is written, split by person, and <out>/problems.csv lists what
was wrong. Run again with the same settings it keeps what is there, so an interrupted run goes on. Leaves with 0; with 1
when a photo could not be used; with 2 on a user's fault.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import _root  # noqa: F401 - puts the repository root on sys.path, refuses a foreign basicsr
from _crop import EMPTY, KEPT, MADE, FaceDetector, Photo, crop_settings, make_faces, note_empty_folders, photos_of
from _prepare import (
    FaceFile,
    Problems,
    claim_folder,
    finish_face,
    log_splits,
    run_in_processes,
    shuffled_people,
    split_names,
)

from basicsr.data.image_source import open_source
from basicsr.faces import ScrfdDetector
from basicsr.utils.cli import run_main
from basicsr.utils.csv_util import write_table
from basicsr.utils.errors import UserError

logger = logging.getLogger("prepare_folder")

TOO_FEW = "person with too few photos"


def main(argv: list[str] | None = None) -> int:
    """Exit code 1 when a photo could not be used."""
    args = parse_args(argv)
    if args.aligned:
        return prepare(args, None)
    return prepare(args, ScrfdDetector(args.detector, args.score_threshold, max_side=args.detect_size, num_threads=1))


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line; values that cannot be raise UserError."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--source", type=Path, required=True, help="folder (or tar, not with --aligned) of <person>/<photo>"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set; made if missing")
    parser.add_argument("--aligned", action="store_true", help="the pictures are square faces in FFHQ framing")
    parser.add_argument("--detector", type=Path, help="SCRFD .onnx with landmarks; needed without --aligned")
    parser.add_argument("--size", type=int, help="side of a face, px (default: 512; with --aligned: no copies)")
    parser.add_argument(
        "--splits", default="train=.8,val=.1,test=.1", help="shares or numbers of people (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the order that gives people their splits")
    parser.add_argument("--min_photos", type=int, default=1, help="leave out people with fewer (default: %(default)s)")
    parser.add_argument("--score_threshold", type=float, default=0.5, help="of the detector (default: %(default)s)")
    parser.add_argument("--detect_size", type=int, default=640, help="the detector sees the photo at this size, px")
    parser.add_argument(
        "--workers", type=int, default=2, help="threads, or with --aligned processes (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    for name, low in (("size", 16), ("detect_size", 32), ("min_photos", 1), ("workers", 1)):
        value = getattr(args, name)
        if value is not None and value < low:
            raise UserError(f"--{name} {value}: at least {low} is needed.")
    if args.aligned and not args.source.is_dir():
        raise UserError(
            f"{args.source}: no such folder. With --aligned the source is a folder; unpack an archive first."
        )
    if not args.aligned and args.detector is None:
        raise UserError("--detector is missing: photos that are not --aligned need one, e.g. det_10g.onnx.")
    return args


def prepare(args: argparse.Namespace, detector: FaceDetector | None) -> int:
    """Everything but the detector's construction. Returns the exit code."""
    problems = Problems()
    note_empty_folders(args.source, problems)
    if detector is not None:
        rows = detected_faces(args, detector, problems)
    else:
        rows = aligned_faces(args, problems)
    num_failed = sum(count for kind, count in problems.counts.items() if kind not in (EMPTY, TOO_FEW))
    have = Counter(person for _, person in rows)
    for person in sorted(have):
        if have[person] < args.min_photos:
            problems.add(TOO_FEW, person, f"{have[person]}, at least {args.min_photos}")
    people = shuffled_people((person for person in have if have[person] >= args.min_photos), args.seed)
    if not people:
        raise UserError(f"{args.source}: nobody has {args.min_photos} photos that can be used.")
    split_of = dict(zip(people, split_names(args.splits, len(people)), strict=True))
    kept = sorted((path, person, split_of[person]) for path, person in rows if person in split_of)
    write_table(args.out / "index.csv", ("path", "identity", "split"), kept)
    log_splits((person, split) for _, person, split in kept)
    problems.write(args.out / "problems.csv")
    logger.info("%s: %d photos of %d people", args.out / "index.csv", len(kept), len(people))
    return int(num_failed > 0)


def detected_faces(args: argparse.Namespace, detector: FaceDetector, problems: Problems) -> list[tuple[str, str]]:
    """(path, person) of the faces that were cut out of the photos."""
    size = args.size or 512
    with open_source(args.source) as source:
        photos = photos_of(source.names, args.source, problems)
        claim_folder(args.out, crop_settings(size, args.detect_size, args.score_threshold))
        outcomes = list(make_faces(source, photos, args.out, size, detector, args.workers))
    for outcome in outcomes:
        if outcome.state not in (KEPT, MADE):
            problems.add(outcome.state, outcome.photo.name, outcome.detail)
    return [(str(o.photo.crop), o.photo.person) for o in outcomes if o.state in (KEPT, MADE)]


def aligned_faces(args: argparse.Namespace, problems: Problems) -> list[tuple[str, str]]:
    """(path, person) of the faces that can be read, copied where a size is asked for."""
    with open_source(args.source) as source:
        photos: Sequence[Photo] = photos_of(source.names, args.source, problems)
    claim_folder(args.out, {"framing": "as given", "size": args.size}, may_hold_files=args.size is None)
    jobs = [
        FaceFile(number, args.source / photo.name, args.out / photo.crop if args.size else None, args.size)
        for number, photo in enumerate(photos)
    ]
    rows = []
    for number, reason in run_in_processes(finish_face, jobs, args.workers, "faces"):
        photo = photos[number]
        if reason:
            problems.add("unusable", photo.name, reason)
        else:
            path = (
                str(photo.crop) if args.size else Path(os.path.relpath(args.source / photo.name, args.out)).as_posix()
            )
            rows.append((path, photo.person))
    return rows


if __name__ == "__main__":
    run_main(main)
