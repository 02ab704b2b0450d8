"""Is the test in the training? By name, by file, by perceptual hash (mirrored too), and by face.

    python scripts/audit_leakage.py --test datasets/lfw64/index.csv --out results/audit --recognizer w600k_r50.onnx
    python scripts/audit_leakage.py --test celeba_test/ --train hq.csv --train_splits train val --out results/audit

--test and --train are index files or folders; without --train the training is the split train of the index --test.
Writes OUT/leaks.csv, and OUT/leaks_<kind>.png to look at. Without --recognizer faces are not compared, which is said.

A face leak is a pair of photos under different names, or none, above --threshold: by default the cosine that a share
--far of the pairs of strangers should reach. Some of these are strangers: look at the sheet, take the rows that are
leaks out of a copy of leaks.csv in the same folder, and hand it in with --accepted: its pairs are no leaks any more.
--clean FILE writes the training as an index without every person and photo that leaks.

--group_duplicates FILE writes all photos that were looked at as an index with the column duplicate_group: near
duplicates of one person share a text there, and IdentityBlindDataset never gives one as reference of another. For a
data set that is to be trained on name all of its splits (--test_splits test --train_splits train val).

--flaws looks at the labels of all photos, OUT/flaws.csv and OUT/flaws_<kind>.png: near duplicates, photos that resemble
nobody of their name, two names that look like one person.

Leaves with 0 when nothing leaks; with 1 on a leak, or when a photo could not be read; with 2 on a user's fault.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import _root  # noqa: F401 - puts the repository root on sys.path, refuses a foreign basicsr
from _audit_files import write_flaws, write_index, write_leaks
from _embedding import add_embedding_arguments, check_numbers, embed_photos

from basicsr.data.duplicate_groups import DUPLICATE_COLUMN, DUPLICATE_COSINE, duplicate_groups
from basicsr.data.label_flaws import Limits, label_flaws
from basicsr.data.leakage import Leak, face_leaks, file_leaks, identity_leaks, photo_leaks, summary, without_leaks
from basicsr.data.photo_hash import NUM_BITS, SAME_PHOTO_BITS, HashedFiles, hash_files
from basicsr.data.photo_list import ListedPhoto, read_photos
from basicsr.data.similarity import stranger_threshold
from basicsr.recognizers import EmbeddedFiles
from basicsr.utils.cli import run_main
from basicsr.utils.csv_util import read_rows
from basicsr.utils.errors import OptionError
from basicsr.utils.seed import rng_for
from basicsr.utils.text_util import make_folder

logger = logging.getLogger("audit_leakage")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line; values that cannot be raise OptionError."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--test", type=Path, required=True, help="index CSV or folder")
    add("--train", type=Path, help="index CSV or folder (default: the index --test)")
    add("--test_splits", nargs="+", metavar="SPLIT", help="of the index --test (default: test if --train is not given)")
    add("--train_splits", nargs="+", metavar="SPLIT", help="of the training's index (default: train, likewise)")
    add("--out", type=Path, required=True, help="folder of the report")
    add_embedding_arguments(parser, required=False)
    add("--threshold", type=float, help="cosine from which two faces are one person's (default: from --far)")
    add("--far", type=float, default=1e-7, help="share of pairs of strangers that may pass (default: %(default)s)")
    text = f"of {NUM_BITS}, that hashes of one photo may differ in (default: %(default)s)"
    add("--max_bits", type=int, default=SAME_PHOTO_BITS, help=text)
    add("--accepted", type=Path, help="CSV with columns test,train: pairs that were looked at and are no leaks")
    add("--clean", type=Path, help="index CSV to write: the training without what leaks")
    add("--group_duplicates", type=Path, help="index CSV to write: every photo, with the column duplicate_group")
    text = "cosine from which two photos of a person are near duplicates there (default: %(default)s)"
    add("--group_cosine", type=float, default=DUPLICATE_COSINE, help=text)
    add("--flaws", action="store_true", help="also look for flaws of the labels")
    for name, value in Limits._field_defaults.items():
        add(f"--{name}", type=float, default=value, help="cosine of --flaws, see docs/data.md (default: %(default)s)")
    args = parser.parse_args(argv)
    limits = dict.fromkeys(Limits._fields, (-1.0, 1.0))
    ranges = {"far": (1e-12, 0.5), "threshold": (0.0, 1.0), "group_cosine": (0.01, 1.0)}
    check_numbers(args, {**ranges, "max_bits": (0, NUM_BITS // 2 - 1), **limits})
    for option in ("flaws", "group_duplicates"):
        if getattr(args, option) and args.recognizer is None:
            raise OptionError(f"--{option} needs --recognizer: it goes by the faces.")
    if args.train is None:
        args.train = args.test
        args.test_splits, args.train_splits = args.test_splits or ["test"], args.train_splits or ["train"]
        shared = set(args.test_splits) & set(args.train_splits)
        if shared:
            raise OptionError(f"split {', '.join(sorted(shared))} of {args.test} cannot be test and training at once.")
    return args


def main(argv: list[str] | None = None) -> int:
    """Exit code 1 on a leak or an unreadable photo, else 0."""
    args = parse_args(argv)
    test, train = read_photos(args.test, args.test_splits or ()), read_photos(args.train, args.train_splits or ())
    make_folder(args.out)
    accepted = read_accepted(args.accepted) if args.accepted else set()
    everything = [*test, *train]
    paths = [photo.path for photo in everything]
    hashes = hash_files(paths, args.cache, args.threads)
    leaks = identity_leaks(test, train) + file_leaks(test, train)
    half = len(test)
    leaks += photo_leaks(test, train, part(hashes, slice(half)), part(hashes, slice(half, None)), args.max_bits)
    if args.recognizer is None:
        logger.warning("no --recognizer: faces are not compared, so a person under another name is not found")
    else:
        embedded = embed_photos(paths, args)
        leaks += compare_faces(args, test, train, embedded)
        if args.flaws:
            look_for_flaws(args, everything, embedded)
        if args.group_duplicates:
            write_groups(args.group_duplicates, everything, embedded, args.group_cosine)
    kept = [leak for leak in leaks if pair_of(leak) not in accepted]
    write_leaks(args.out, kept)
    if args.clean:
        clean = without_leaks(train, kept)
        write_index(args.clean, clean)
        logger.info("%s: %d of %d photos of the training are left", args.clean, len(clean), len(train))
    return tell(args, len(test), len(train), len(leaks) - len(kept), kept, int((~hashes.ok).sum()))


def tell(
    args: argparse.Namespace, num_test: int, num_train: int, num_accepted: int, leaks: list[Leak], bad: int
) -> int:
    """The summary; returns the exit code."""
    logger.info("%d photos of the test, %d of the training", num_test, num_train)
    for line in summary(leaks):
        logger.info("%s", line)
    if num_accepted:
        logger.info("%6d accepted by %s", num_accepted, args.accepted)
    if bad:
        logger.warning("%d photos could not be read and were not looked at", bad)
    logger.info("%s: %s", args.out / "leaks.csv", f"{len(leaks)} LEAKS" if leaks else "no leaks")
    return int(bool(leaks) or bad > 0)


def part(hashes: HashedFiles, rows: slice) -> HashedFiles:
    """The hashes of some of the files."""
    return HashedFiles(hashes.plain[rows], hashes.mirrored[rows], hashes.ok[rows], [])


def compare_faces(
    args: argparse.Namespace, test: Sequence[ListedPhoto], train: Sequence[ListedPhoto], embedded: EmbeddedFiles
) -> list[Leak]:
    """Pairs above the threshold."""
    ok, half = embedded.ok, len(test)
    seen = [photo for photo, good in zip(test, ok[:half], strict=True) if good]
    known = [photo for photo, good in zip(train, ok[half:], strict=True) if good]
    vectors, others = embedded.vectors[:half][ok[:half]], embedded.vectors[half:][ok[half:]]
    if not seen or not known:
        raise OptionError(f"{args.test if not seen else args.train}: no photo that can be read.")
    threshold = args.threshold
    if threshold is None:
        threshold = stranger_threshold(vectors, others, args.far, rng_for(0))
        logger.info("faces: threshold %.3f, false accept rate %g from the spread of random pairs", threshold, args.far)
    return face_leaks(seen, known, vectors, others, threshold)


def look_for_flaws(args: argparse.Namespace, photos: Sequence[ListedPhoto], embedded: EmbeddedFiles) -> None:
    """Flaws of the labels of test and training together."""
    named = [photo for photo, ok in zip(photos, embedded.ok, strict=True) if ok]
    limits = Limits(*(getattr(args, name) for name in Limits._fields))
    write_flaws(args.out, label_flaws(named, embedded.vectors[embedded.ok], limits))


def write_groups(path: Path, photos: Sequence[ListedPhoto], embedded: EmbeddedFiles, cosine: float) -> None:
    """All photos as an index with the column of near duplicates; a photo that cannot be read is in no group."""
    names = [photo.identity if ok else "" for photo, ok in zip(photos, embedded.ok, strict=True)]
    groups = duplicate_groups(names, embedded.vectors, cosine)
    columns = [{**photo.attributes, DUPLICATE_COLUMN: group} for photo, group in zip(photos, groups, strict=True)]
    write_index(path, [photo._replace(attributes=of) for photo, of in zip(photos, columns, strict=True)])
    several = [group for group in groups if group]
    logger.info("%s: %d photos in %d groups of near duplicates", path, len(several), len(set(several)))


def pair_of(leak: Leak) -> tuple[str, str]:
    """What --accepted knows a pair by."""
    return os.path.abspath(leak.test.path), os.path.abspath(leak.train.path)


def read_accepted(path: Path) -> set[tuple[str, str]]:
    """Pairs of files; relative paths are relative to the CSV."""
    folder = path.parent
    return {
        (os.path.abspath(folder / row["test"]), os.path.abspath(folder / row["train"]))
        for _, row in read_rows(path, ("test", "train"))
    }


if __name__ == "__main__":
    run_main(main)
