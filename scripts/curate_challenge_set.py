"""A challenge set: equally many photos with glasses, hats, earrings, of each range of yaw, of each group of people.

    python scripts/curate_challenge_set.py --index celebahq.csv --slices eyeglasses hat earrings yaw --out challenge
    python scripts/curate_challenge_set.py --index lfw/index.csv --slices yaw --detector det_10g.onnx --out challenge
    python scripts/curate_challenge_set.py --index my.csv --group age:0,18,40,65,120 --group gender --out challenge

Accessories and groups come from columns of the index alone: nothing about a person is read off a face. Yaw comes from
the column yaw; without one, and with --detector, it is estimated from five landmarks (basicsr/faces/pose.py), and the
index, the log and the sheets say "estimated".

A person is in one slice only and has at most --max_per_person photos there; every photo has at least --min_refs others
of the person that do not look the same. Writes OUT/index.csv (columns of the index, and slice: a name, or "reference"),
OUT/pairs.csv (gt, ref, identity, slice; for scripts/evaluate.py --pairs) and OUT/sheet_<slice>.png. A slice with too
few photos is refused with the counts: exit code 2.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import _root  # noqa: F401 - puts the repository root on sys.path, refuses a foreign basicsr
import numpy as np
from _audit_files import relative
from _embedding import check_numbers
from numpy.typing import NDArray

from basicsr.data.challenge import (
    ACCESSORIES,
    Choice,
    Slices,
    accessory_slice,
    choose_balanced,
    column_numbers,
    group_slices,
    yaw_slices,
)
from basicsr.data.contact_sheet import Group, Tile, write_contact_sheet
from basicsr.data.photo_hash import NUM_BITS, SAME_PHOTO_BITS, HashedFiles, hash_files
from basicsr.data.photo_list import ListedPhoto, read_photos
from basicsr.faces import ScrfdDetector, center_face
from basicsr.faces.pose import estimate_yaw
from basicsr.utils.cli import run_main
from basicsr.utils.csv_util import write_table
from basicsr.utils.errors import ImageFileError, OptionError
from basicsr.utils.img_util import Image
from basicsr.utils.picture_features import picture_features
from basicsr.utils.seed import rng_for
from basicsr.utils.text_util import make_folder
from basicsr.utils.weights import sha256_of

logger = logging.getLogger("curate_challenge_set")

ESTIMATED = "estimated from five landmarks"
REFERENCE = "reference"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line; values that cannot be raise OptionError."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--index", type=Path, required=True, help="CSV path,identity,split and the columns that slices need")
    add("--splits", nargs="+", default=["test"], help="of the index (default: test)")
    add("--slices", nargs="+", default=[], choices=[*ACCESSORIES, "yaw"], help="slices to make")
    add("--group", action="append", default=[], metavar="COLUMN[:EDGE,...]", help="a slice for each value, or range")
    add("--yaw_bins", type=float, nargs="+", default=[0, 15, 30, 90], help="edges, degrees (default: 0 15 30 90)")
    add("--detector", type=Path, help="SCRFD .onnx with landmarks, to estimate yaw where the index has no column")
    add("--detect_size", type=int, default=160, help="the detector sees a face at this size, px (default: %(default)s)")
    add("--per_slice", type=int, default=50, help="photos of a slice (default: %(default)s)")
    add("--max_per_person", type=int, default=2, help="photos of a person (default: %(default)s)")
    add("--min_refs", type=int, default=1, help="other photos that a person needs (default: %(default)s)")
    add("--max_refs", type=int, default=4, help="references of a photo (default: %(default)s)")
    add("--cache", type=Path, help="folder that keeps hashes and landmarks; needed to go on after a kill")
    add("--threads", type=int, default=2, help="that decode and detect (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the choice (default: %(default)s)")
    add("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args(argv)
    if not args.slices and not args.group:
        raise OptionError("no slice is asked for: give --slices or --group.")
    if len(args.yaw_bins) < 2 or args.yaw_bins != sorted(set(args.yaw_bins)):
        raise OptionError(f"--yaw_bins {args.yaw_bins}: at least two rising edges are expected.")
    limits = {"per_slice": (1, 1e9), "max_per_person": (1, 1e9), "min_refs": (1, 1e3), "detect_size": (32, 4096)}
    args.batch_size = 32
    check_numbers(args, {**limits, "max_refs": (args.min_refs, 1e3), "seed": (0, 2**63)})
    return args


def main(argv: list[str] | None = None) -> int:
    """Exit code 1 when a photo could not be read, else 0."""
    args = parse_args(argv)
    photos = [photo for photo in read_photos(args.index, args.splits) if photo.identity]
    if not photos:
        raise OptionError(f"{args.index}: no photo of split {' '.join(args.splits)} has an identity.")
    make_folder(args.out)
    hashes = hash_files([photo.path for photo in photos], args.cache, args.threads)
    refs = references(photos, hashes, args.min_refs)
    slices: Slices = {}
    for name in args.slices:
        if name != "yaw":
            slices[name] = accessory_slice(photos, name, str(args.index))
    for text in args.group:
        slices |= group_slices(photos, *group_of(text), str(args.index))
    if "yaw" in args.slices:
        yaw, photos = yaw_of(args, photos, refs)
        slices |= yaw_slices(yaw, args.yaw_bins)
    slices = {name: [place for place in members if place in refs] for name, members in slices.items()}
    identities = [photo.identity for photo in photos]
    choice = choose_balanced(slices, identities, args.per_slice, args.max_per_person, rng_for(args.seed, 0))
    refuse_small(choice, args)
    write_set(args, photos, choice.chosen, refs)
    return int((~hashes.ok).any())


def group_of(text: str) -> tuple[str, list[float]]:
    """'age:0,18,40' -> ('age', [0, 18, 40])."""
    column, _, edges = text.partition(":")
    try:
        numbers = [float(edge) for edge in edges.split(",")] if edges else []
    except ValueError as error:
        raise OptionError(f"--group {text}: expected COLUMN or COLUMN:NUMBER,NUMBER,...") from error
    if numbers and (len(numbers) < 2 or numbers != sorted(set(numbers))):
        raise OptionError(f"--group {text}: at least two rising edges are expected.")
    return column, numbers


def references(photos: Sequence[ListedPhoto], hashes: HashedFiles, min_refs: int) -> dict[int, list[int]]:
    """Photo -> the other photos of the person that do not look the same, where there are at least `min_refs`."""
    people: dict[str, list[int]] = {}
    for place, photo in enumerate(photos):
        if hashes.ok[place]:
            people.setdefault(photo.identity, []).append(place)
    limit = 1 - (2 * SAME_PHOTO_BITS + 1) / NUM_BITS
    found: dict[int, list[int]] = {}
    for members in people.values():
        plain = hashes.plain[members]
        looks_same = (plain @ plain.T >= limit) | (plain @ hashes.mirrored[members].T >= limit)
        for row, place in enumerate(members):
            others = [other for column, other in enumerate(members) if column != row and not looks_same[row, column]]
            if len(others) >= min_refs:
                found[place] = others
    return found


def yaw_of(
    args: argparse.Namespace, photos: list[ListedPhoto], wanted: Mapping[int, object]
) -> tuple[list[float], list[ListedPhoto]]:
    """Degrees of each photo (NaN: unknown), and the photos with what was estimated among their columns."""
    if "yaw" in photos[0].attributes:
        return column_numbers(photos, "yaw", str(args.index)), photos
    if args.detector is None:
        raise OptionError(f"{args.index}: no column yaw. Give --detector FILE to estimate it from landmarks.")
    places = sorted(wanted)
    if not places:
        raise OptionError(f"{args.index}: nobody has {args.min_refs + 1} photos that do not look the same.")
    landmarks, ok = landmarks_of(args, [photos[place].path for place in places])
    yaw = [math.nan] * len(photos)
    for place, value, good in zip(places, estimate_yaw(landmarks), ok, strict=True):
        yaw[place] = float(value) if good else math.nan
    logger.info("yaw: %s for %d photos; without a face: %d", ESTIMATED, len(places), int((~ok).sum()))
    columns = [
        {"yaw": "" if math.isnan(value) else f"{value:.1f}", "yaw_source": ESTIMATED if value == value else ""}
        for value in yaw
    ]
    return yaw, [p._replace(attributes={**p.attributes, **c}) for p, c in zip(photos, columns, strict=True)]


def landmarks_of(args: argparse.Namespace, paths: Sequence[Path]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(N, 5, 2) of the face nearest to the middle of each picture, and which have one."""
    detector = ScrfdDetector(args.detector, max_side=args.detect_size, num_threads=1)

    def detect(image: Image) -> NDArray[np.float64]:
        face = center_face(detector.detect(image), (image.shape[0], image.shape[1]))
        if face is None:
            raise ImageFileError("no face is found")
        return np.asarray(face.landmarks, np.float64)

    recipe = f"landmarks, detector {sha256_of(args.detector)} at {args.detect_size} px, face nearest to the middle"
    found = picture_features(
        paths, detect, lambda items: {"landmarks": np.stack(items)}, recipe, args.cache, 32, args.threads, "landmarks"
    )
    return found.columns["landmarks"], found.ok


def refuse_small(choice: Choice, args: argparse.Namespace) -> None:
    """OptionError with the counts, when a slice is short."""
    short = [name for name, chosen in choice.chosen.items() if len(chosen) < args.per_slice]
    if short:
        counts = ", ".join(f"{name} {number}" for name, number in choice.available.items())
        raise OptionError(
            f"{args.index}: too few photos for {', '.join(short)}: asked for {args.per_slice} a slice, at most "
            f"{args.max_per_person} of a person, with references, nobody in two slices; to be had: {counts}. Lower "
            "--per_slice, raise --max_per_person, or take wider ranges."
        )


def write_set(
    args: argparse.Namespace, photos: Sequence[ListedPhoto], chosen: Slices, refs: Mapping[int, list[int]]
) -> None:
    """index.csv, pairs.csv, the sheets, and the summary."""
    rng = rng_for(args.seed, 1)
    refs_of = {
        place: sorted(rng.permutation(refs[place])[: args.max_refs].tolist())
        for members in chosen.values()
        for place in members
    }
    slice_of = {place: name for name, members in chosen.items() for place in members}
    for places in refs_of.values():
        for place in places:
            slice_of.setdefault(place, REFERENCE)
    columns = list(dict.fromkeys(name for place in slice_of for name in photos[place].attributes))
    rows = [
        (relative(photos[p].path, args.out), photos[p].identity, photos[p].split, name,
         *(photos[p].attributes.get(column, "") for column in columns))
        for p, name in sorted(slice_of.items(), key=lambda entry: (entry[1] == REFERENCE, entry[1], entry[0]))
    ]  # fmt: skip
    write_table(args.out / "index.csv", ("path", "identity", "split", "slice", *columns), rows)
    pairs = [
        (relative(photos[p].path, args.out), ";".join(relative(photos[r].path, args.out) for r in refs_of[p]),
         photos[p].identity, name)
        for name, members in chosen.items() for p in members
    ]  # fmt: skip
    write_table(args.out / "pairs.csv", ("gt", "ref", "identity", "slice"), pairs)
    for name, members in chosen.items():
        write_sheet(args.out / f"sheet_{name}.png", name, photos, members, refs_of)
        people = len({photos[place].identity for place in members})
        logger.info("%-20s %4d photos of %4d people", name, len(members), people)
    logger.info("%s: %d photos, %d of them references alone", args.out / "index.csv", len(slice_of),
                sum(name == REFERENCE for name in slice_of.values()))  # fmt: skip


def write_sheet(
    path: Path, name: str, photos: Sequence[ListedPhoto], members: Sequence[int], refs_of: Mapping[int, list[int]]
) -> None:
    """Each photo of a slice with its first reference."""
    groups = []
    for place in members:
        yaw = photos[place].attributes.get("yaw")
        tiles = [Tile(photos[place].path, photos[place].path.stem), Tile(photos[refs_of[place][0]].path, "reference")]
        groups.append(Group(f"yaw {yaw}" if name.startswith("yaw") else photos[place].identity, tiles))
    estimated = any(photos[place].attributes.get("yaw_source") == ESTIMATED for place in members)
    title = f"{name}{f', yaw {ESTIMATED}' if estimated and name.startswith('yaw') else ''}: {len(members)} photos"
    write_contact_sheet(path, title, groups, max_groups=100)


if __name__ == "__main__":
    run_main(main)
