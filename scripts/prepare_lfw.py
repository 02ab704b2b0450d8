"""LFW, or any folder or tar with one sub-folder per person -> aligned faces and an index, split by identity.

    python scripts/prepare_lfw.py --source lfw.tgz --detector scrfd_2.5g_bnkps.onnx --out datasets/lfw64 --size 64 \\
        --pairs pairs.txt --people people.txt

Writes <out>/<person>/<photo>.png in FFHQ framing, <out>/index.csv (path,identity,split), and <out>/skipped.csv with the
photos that gave no face and the reason; <out>/gallery.csv: of each person of the split test with three photos one to
restore (lq), another as its reference (ref), a third to judge by (gt); with --pairs <out>/verification.csv
(fold,same,first,second); with --people the index gets the column fold. <out>/problems.csv lists what was wrong.
Run again with the same settings it keeps the faces that are there, so an interrupted run goes on. Leaves with 0; with 1
when a photo could not be read; with 2 on a user's fault.

FFHQ framing spans about 175 px of an LFW photo; what lies outside of it (1 photo in 80) is filled with one colour.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import _root  # noqa: F401 - puts the repository root on sys.path, refuses a foreign basicsr
from _crop import (
    BAD_NAME,
    KEPT,
    MADE,
    NO_FACE,
    UNREADABLE,
    FaceDetector,
    Outcome,
    Photo,
    crop_settings,
    make_faces,
    note_empty_folders,
    photos_of,
)
from _lfw_lists import Pair, gallery, read_pairs, read_people
from _prepare import Problems, claim_folder, log_splits, shuffled_people

from basicsr.data.image_source import open_source
from basicsr.faces import ScrfdDetector
from basicsr.utils.cli import progress, run_main
from basicsr.utils.csv_util import write_table
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import imread

logger = logging.getLogger("prepare_lfw")


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
    parser.add_argument("--pairs", type=Path, help="LFW's pairs.txt or pairsDev*.txt: writes verification.csv")
    parser.add_argument("--people", type=Path, help="LFW's people.txt: counts who is absent, adds the column fold")
    parser.add_argument("--min_photos", type=int, default=2, help="leave out people with fewer (default: %(default)s)")
    parser.add_argument("--val_people", type=float, default=0.1, help="share of the people (default: %(default)s)")
    parser.add_argument("--test_people", type=float, default=0.1, help="share of the people (default: %(default)s)")
    parser.add_argument(
        "--limit_people", type=int, help="take only so many people, of the pairs as well, for a quick run"
    )
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
    problems = Problems()
    pairs = read_pairs(args.pairs, problems) if args.pairs else []
    listed = read_people(args.people, problems) if args.people else {}
    note_empty_folders(args.source, problems)
    with open_source(args.source) as source:
        every_photo = photos_of(source.names, args.source, problems)
        people = chosen_people(every_photo, args.min_photos, args.limit_people, args.seed)
        if not people:
            raise UserError(f"{args.source}: nobody has {args.min_photos} photos. Lower --min_photos.")
        claim_folder(args.out, crop_settings(args.size, args.detect_size, args.score_threshold))
        wanted = set(people)
        paired = {key for pair in pairs for key in (pair.first, pair.second)} if args.limit_people is None else set()
        photos = [photo for photo in every_photo if photo.person in wanted or (photo.person, photo.stem) in paired]
        outcomes = list(make_faces(source, photos, args.out, args.size, detector, args.workers))
    faces = [outcome.photo for outcome in outcomes if outcome.state in (KEPT, MADE)]
    have = Counter(photo.person for photo in faces if photo.person in wanted)
    people = [person for person in people if have[person] >= args.min_photos]  # some may have lost photos
    if not people:
        raise UserError(f"{args.source}: nobody has {args.min_photos} photos with a face that the detector finds.")
    split_of = split_people(people, args.val_people, args.test_people)
    note_absent(every_photo, listed, args.people, problems)
    write_index(args.out, faces, split_of, {person: fold for person, (_, fold) in listed.items()})
    write_skipped(args.out, outcomes)
    write_gallery(args.out, [face for face in faces if split_of.get(face.person) == "test"])
    if pairs:
        write_verification(args.out, pairs, faces)
    log_summary(args.out, outcomes, faces, split_of, time.perf_counter() - start)
    problems.write(args.out / "problems.csv")
    return int(any(outcome.state == UNREADABLE for outcome in outcomes) or problems.counts[BAD_NAME] > 0)


def chosen_people(photos: Sequence[Photo], min_photos: int, limit: int | None, seed: int) -> list[str]:
    """People with enough photos, see `shuffled_people`."""
    count = Counter(photo.person for photo in photos)
    return shuffled_people((person for person in count if count[person] >= min_photos), seed)[:limit]


def split_people(people: Sequence[str], val_share: float, test_share: float) -> dict[str, str]:
    """Person -> split. A split with a share above 0 gets somebody, unless there is nobody left to train."""
    num_test = max(round(len(people) * test_share), int(test_share > 0))
    num_val = max(round(len(people) * val_share), int(val_share > 0))
    if num_test + num_val >= len(people):
        raise UserError(f"{len(people)} people are too few for three splits. Take more, or set --val_people 0.")
    splits = ["test"] * num_test + ["val"] * num_val + ["train"] * (len(people) - num_test - num_val)
    return dict(zip(people, splits, strict=True))


def note_absent(
    photos: Sequence[Photo], listed: Mapping[str, tuple[int, str]], path: Path | None, problems: Problems
) -> None:
    """People of the official list without photos here, or with fewer than it says."""
    have = Counter(photo.person for photo in photos)
    for person, (count, _) in listed.items():
        if have[person] < count:
            kind = "person of the list with fewer photos here" if have[person] else "person of the list who is absent"
            problems.add(kind, f"{path}: {person}", f"{have[person]} of {count}")


def write_index(out: Path, faces: Iterable[Photo], split_of: Mapping[str, str], fold_of: Mapping[str, str]) -> None:
    """index.csv, sorted, so that the same faces give the same file whatever order the archive has."""
    rows = [(str(f.crop), f.person, split_of[f.person]) for f in faces if f.person in split_of]
    header: tuple[str, ...] = ("path", "identity", "split")
    if fold_of:
        write_table(out / "index.csv", (*header, "fold"), sorted((*row, fold_of.get(row[1], "")) for row in rows))
    else:
        write_table(out / "index.csv", header, sorted(rows))


def write_skipped(out: Path, outcomes: Iterable[Outcome]) -> None:
    """skipped.csv: the photos without a face in the set, and why."""
    rows = [(o.photo.name, o.state, o.detail) for o in outcomes if o.state in (NO_FACE, UNREADABLE)]
    write_table(out / "skipped.csv", ("photo", "reason", "detail"), sorted(rows))


def write_gallery(out: Path, faces: Sequence[Photo]) -> None:
    """gallery.csv, for inference_codeformer.py --pairs and evaluate.py --pairs, whose `gt` is the photo that judges."""
    rows = gallery(faces, lambda photo: imread(out / photo.crop))
    table = [(str(r.restore.crop), str(r.reference.crop), str(r.judge.crop), r.restore.person) for r in rows]
    write_table(
        out / "gallery.csv", ("lq", "ref", "gt", "identity", "restored"), [(*r, Path(r[0]).name) for r in table]
    )
    num_people = len({face.person for face in faces})
    logger.info("gallery: %d of %d people of split test have three photos to take part", len(rows), num_people)


def write_verification(out: Path, pairs: Sequence[Pair], faces: Iterable[Photo]) -> None:
    """verification.csv: the official pairs whose two faces are there; the others are counted."""
    crop_of = {(face.person, face.stem): str(face.crop) for face in faces}
    rows = [
        (pair.fold, str(int(pair.same)), crop_of[pair.first], crop_of[pair.second])
        for pair in progress(pairs, desc="pairs")
        if pair.first in crop_of and pair.second in crop_of
    ]
    write_table(out / "verification.csv", ("fold", "same", "first", "second"), rows)
    num_same = sum(row[1] == "1" for row in rows)
    logger.info(
        "verification: %d pairs (%d of one person), %d skipped, a photo of theirs is absent",
        len(rows), num_same, len(pairs) - len(rows),
    )  # fmt: skip


def log_summary(
    out: Path, outcomes: Sequence[Outcome], faces: Sequence[Photo], split_of: dict[str, str], seconds: float
) -> None:
    """Counts per split, and every photo that is missing from them."""
    states = Counter(outcome.state for outcome in outcomes)
    indexed = [(face.person, split_of[face.person]) for face in faces if face.person in split_of]
    log_splits(indexed)
    logger.info(
        "%d photos: %d made, %d kept, %d without a face, %d unreadable (%s); %d left out, their person has too few",
        len(outcomes), states[MADE], states[KEPT], states[NO_FACE], states[UNREADABLE],
        out / "skipped.csv", len(faces) - len(indexed),
    )  # fmt: skip
    logger.info("%s: %.1f s, %.1f photos/s", out / "index.csv", seconds, len(outcomes) / seconds)


if __name__ == "__main__":
    run_main(main)
