"""CelebA-HQ or CelebAMask-HQ on disk -> an index with the official CelebA identities, partition, attributes and pose.

    python scripts/prepare_celebahq.py --source CelebAMask-HQ --identities identity_CelebA.txt --size 512 \\
        --out datasets/celebahq512

The lists are looked for in --source under their public names; each can be named. Identities are not part of
CelebAMask-HQ: identity_CelebA.txt comes from CelebA's authors. The split of a picture is that of the CelebA photo that
it was made of, so nobody is in two; splits by index would put 86 % of their people on both sides. With --size the
pictures are copied at that size (processes share the work), else the index names the originals. <out>/problems.csv
lists what was wrong. Run again with the same settings it keeps what is there, so an interrupted run goes on. Leaves
with 0; with 1 when pictures were left out; with 2 on a user's fault.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import _root  # noqa: F401 - puts the repository root on sys.path, refuses a foreign basicsr
from _celeba_lists import SPLIT_OF_CODE, read_annotations, read_mapping, read_pairs_of_fields, split_by_number
from _prepare import FaceFile, Problems, claim_folder, finish_face, log_splits, run_in_processes

from basicsr.utils.cli import run_main
from basicsr.utils.csv_util import write_table
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import list_images

logger = logging.getLogger("prepare_celebahq")

PUBLIC_NAMES = {
    "images": ("CelebA-HQ-img", "celeba_hq", "images"),
    "mapping": ("CelebA-HQ-to-CelebA-mapping.txt", "image_list.txt"),
    "identities": ("identity_CelebA.txt",),
    "partition": ("list_eval_partition.txt",),
    "attributes": ("CelebAMask-HQ-attribute-anno.txt", "list_attr_celeba.txt"),
    "pose": ("CelebAMask-HQ-pose-anno.txt",),
    "masks": ("CelebAMask-HQ-mask-anno",),
}
COLUMN_OF_ATTRIBUTE = {
    "Eyeglasses": "eyeglasses",
    "Wearing_Hat": "hat",
    "Wearing_Earrings": "earrings",
    "Wearing_Necklace": "necklace",
}
TICKED = ("Male", "Young")  # annotators' ticks that are kept under their own names, attr_male and attr_young
COLUMN_OF_PART = {"eye_g": "eyeglasses", "hat": "hat", "ear_r": "earrings", "neck_l": "necklace"}
MASKS_PER_FOLDER = 2000
COLUMN_OF_ANGLE = {"yaw": "yaw", "pitch": "pitch", "roll": "roll", "raw": "roll"}  # Raw: so spelt in the public file
NUM_PICTURES = 30_000
PUBLISHED = {"train": (24_183, 5_009), "val": (2_993, 604), "test": (2_824, 604)}  # pictures, people of CelebA-HQ
LEFT_OUT = (
    "picture without a mapping row",
    "unusable",
    "picture whose name is no number",
    "second picture of a number",
)


def main(argv: list[str] | None = None) -> int:
    """Exit code 1 when pictures were left out."""
    args = parse_args(argv)
    problems = Problems()
    mapping = read_mapping(args.mapping, problems)
    pictures: dict[int, Path] = {}
    for file in list_images(args.images, recursive=False):
        if not file.stem.isdecimal():
            problems.add(LEFT_OUT[2], file.name)
        elif int(file.stem) not in mapping:
            problems.add(LEFT_OUT[0], file.name)
        elif int(file.stem) in pictures:
            problems.add(LEFT_OUT[3], file.name, f"{pictures[int(file.stem)].name} has the same number")
        else:
            pictures[int(file.stem)] = file
    for idx in sorted(mapping.keys() - pictures.keys()):
        problems.add("mapping row without a picture", f"{idx}.jpg")
    settings = {"set": "CelebA-HQ", "size": args.size, "format": args.format}
    claim_folder(args.out, settings, may_hold_files=args.size is None)
    usable = finish_pictures(args, pictures, problems)
    if not usable:
        raise UserError(f"{args.images}: none of {len(pictures)} pictures can be used.")
    stems = {idx: mapping[idx].orig_file for idx in usable}
    columns = {
        "path": usable,
        "identity": identities_of(stems, args.identities, problems),
        "split": splits_of(stems, args.partition, problems),
        **angles_of(stems, args.pose, problems),
        **attributes_of(stems, args, problems),
        "source": stems,
    }
    rows = [[column.get(idx, "") for column in columns.values()] for idx in sorted(usable)]
    write_table(args.out / "index.csv", list(columns), without_split_people(rows, problems))
    summarise([(row[1], row[2]) for row in rows])
    problems.write(args.out / "problems.csv")
    logger.info("%s: %d pictures, columns %s", args.out / "index.csv", len(rows), ", ".join(columns))
    return int(any(problems.counts[kind] for kind in LEFT_OUT))


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line, with the public files of --source where nothing is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder of the unpacked download")
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set; made if missing")
    parser.add_argument("--images", type=Path, help="folder of <idx>.jpg or .png (default: CelebA-HQ-img in --source)")
    parser.add_argument("--mapping", type=Path, help="CelebA-HQ-to-CelebA-mapping.txt, or PGGAN's image_list.txt")
    parser.add_argument("--identities", type=Path, help="identity_CelebA.txt; without it no picture has an identity")
    parser.add_argument("--partition", type=Path, help="list_eval_partition.txt (default: its published boundaries)")
    parser.add_argument("--attributes", type=Path, help="CelebAMask-HQ-attribute-anno.txt or list_attr_celeba.txt")
    parser.add_argument("--pose", type=Path, help="CelebAMask-HQ-pose-anno.txt")
    parser.add_argument("--masks", type=Path, help="CelebAMask-HQ-mask-anno")
    parser.add_argument(
        "--accessories_from",
        choices=("attributes", "masks"),
        help="which says who wears what (default: the attributes, or the masks where there are none)",
    )
    parser.add_argument("--size", type=int, help="copy the pictures at this size, px (default: no copies)")
    parser.add_argument(
        "--format", choices=("png", "jpg", "webp"), default="png", help="of the copies (default: %(default)s)"
    )
    parser.add_argument("--no_check", action="store_true", help="without --size: do not read every picture")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    args = parser.parse_args(argv)
    for name, low in (("size", 16), ("workers", 1)):
        if getattr(args, name) is not None and getattr(args, name) < low:
            raise UserError(f"--{name} {getattr(args, name)}: at least {low} is needed.")
    for name, files in PUBLIC_NAMES.items():
        if getattr(args, name) is None:
            setattr(args, name, next((args.source / file for file in files if (args.source / file).exists()), None))
        elif not getattr(args, name).exists():
            raise UserError(f"--{name} {getattr(args, name)}: no such file or folder.")
        if getattr(args, name) is None and name in ("images", "mapping"):
            raise UserError(f"{args.source}: no {' or '.join(files)} in it. Name it with --{name}.")
    chosen = args.accessories_from or ("attributes" if args.attributes or not args.masks else "masks")
    if args.accessories_from and getattr(args, chosen) is None:
        raise UserError(f"--accessories_from {chosen}: there are none. Name them with --{chosen}.")
    args.accessories_from = chosen
    return args


def finish_pictures(args: argparse.Namespace, pictures: Mapping[int, Path], problems: Problems) -> dict[int, str]:
    """idx -> path in the index, of the pictures that can be read; copies them where a size is asked for."""
    target = {idx: Path("images") / f"{idx:05d}.{args.format}" for idx in pictures}
    if args.size is None:
        target = {idx: Path(os.path.relpath(file, args.out)) for idx, file in pictures.items()}
    usable = {idx: path.as_posix() for idx, path in target.items()}
    if args.no_check and args.size is None:
        return usable
    jobs = [FaceFile(i, file, args.out / target[i] if args.size else None, args.size) for i, file in pictures.items()]
    for idx, reason in run_in_processes(finish_face, jobs, args.workers, "pictures"):
        if reason:
            problems.add(LEFT_OUT[1], pictures[idx].name, reason)
            del usable[idx]
    return usable


def identities_of(stems: Mapping[int, str], path: Path | None, problems: Problems) -> dict[int, str]:
    """idx -> CelebA's number of the person; a picture of nobody known stays, without an identity."""
    if path is None:
        logger.warning("no identity_CelebA.txt: the index has no identities, so it serves stage I alone")
        return {}
    known = read_pairs_of_fields(path, None, problems)
    for idx, name in stems.items():
        if name not in known:
            problems.add("unknown identity", f"{idx}.jpg", f"{path.name} lacks {name}")
    return {idx: known[name] for idx, name in stems.items() if name in known}


def splits_of(stems: Mapping[int, str], path: Path | None, problems: Problems) -> dict[int, str]:
    """idx -> split, by the official partition; by its boundaries where the list lacks a photo, or there is no list."""
    if path is None:
        return {idx: split_by_number(name) for idx, name in stems.items()}
    codes = read_pairs_of_fields(path, tuple(SPLIT_OF_CODE), problems)
    for idx, name in stems.items():
        if name not in codes:
            problems.add("photo that the partition lacks", f"{idx}.jpg", f"{name} is {split_by_number(name)} by number")
    return {idx: SPLIT_OF_CODE[codes[name]] if name in codes else split_by_number(name) for idx, name in stems.items()}


def angles_of(stems: Mapping[int, str], path: Path | None, problems: Problems) -> dict[str, dict[int, str]]:
    """yaw, pitch, roll -> idx -> degrees."""
    if path is None:
        return {}
    names, rows = read_annotations(path, problems)
    columns = {
        COLUMN_OF_ANGLE[name.lower()]: place for place, name in enumerate(names) if name.lower() in COLUMN_OF_ANGLE
    }
    found: dict[str, dict[int, str]] = {column: {} for column in columns}
    for idx, name in stems.items():
        row = row_of(rows, idx, name)
        if row is None:
            problems.add("picture without a pose", f"{idx}.jpg")
        elif not all(is_angle(row[place]) for place in columns.values()):
            problems.add("pose that is no angle", f"{idx}.jpg", " ".join(row))
        else:
            for column, place in columns.items():
                found[column][idx] = f"{float(row[place]):.2f}"
    return found


def is_angle(text: str) -> bool:
    try:
        return -180 <= float(text) <= 180
    except ValueError:
        return False


def attributes_of(stems: Mapping[int, str], args: argparse.Namespace, problems: Problems) -> dict[str, dict[int, str]]:
    """Column -> idx -> "0" or "1": accessories from the attributes or the masks, ticks from the attributes."""
    found: dict[str, dict[int, str]] = {}
    if args.accessories_from == "masks":
        found |= {
            column: {idx: part_is_there(args.masks, idx, part) for idx in stems}
            for part, column in COLUMN_OF_PART.items()
        }
    if args.attributes is None:
        return found
    names, rows = read_annotations(args.attributes, problems)
    wanted = {name: f"attr_{name.lower()}" for name in TICKED}
    if args.accessories_from == "attributes":
        wanted = {**COLUMN_OF_ATTRIBUTE, **wanted}
    places = {column: names.index(name) for name, column in wanted.items() if name in names}
    found |= {column: {} for column in places}
    for idx, name in stems.items():
        row = row_of(rows, idx, name)
        if row is None:
            problems.add("picture without attributes", f"{idx}.jpg")
        elif not {row[place] for place in places.values()} <= {"-1", "0", "1"}:
            problems.add("attributes other than -1 and 1", f"{idx}.jpg")
        else:
            for column, place in places.items():
                found[column][idx] = str(int(row[place] == "1"))
    return found


def part_is_there(masks: Path, idx: int, part: str) -> str:
    """A part that the picture does not show has no mask file."""
    return str(int((masks / str(idx // MASKS_PER_FOLDER) / f"{idx:05d}_{part}.png").is_file()))


def row_of(rows: Mapping[str, list[str]], idx: int, orig_file: str) -> list[str] | None:
    """Row of a picture in a list by CelebA-HQ's number (0.jpg) or by CelebA's photo (000001.jpg)."""
    return rows.get(str(idx), rows.get(Path(orig_file).stem))


def without_split_people(rows: Sequence[list[str]], problems: Problems) -> Sequence[list[str]]:
    """The rows; one whose person is in another split already loses its identity, which the lists have wrong."""
    split_of: dict[str, str] = {}
    for row in rows:
        if row[1] and split_of.setdefault(row[1], row[2]) != row[2]:
            problems.add("person in two splits: identity taken out", row[0], f"{row[1]} is in {split_of[row[1]]}")
            row[1] = ""
    return rows


def summarise(rows: Sequence[tuple[str, str]]) -> None:
    """Counts of the splits, and whether a whole set has the published ones."""
    log_splits(rows)
    if len(rows) != NUM_PICTURES:
        logger.info("%d of CelebA-HQ's %d pictures", len(rows), NUM_PICTURES)
        return
    counts = {
        name: (sum(split == name for _, split in rows), len({who for who, split in rows if who and split == name}))
        for name in PUBLISHED
    }
    if counts == PUBLISHED:
        logger.info("pictures and people of each split are as counted for CelebA-HQ")
    else:
        logger.warning("counts (pictures, people) differ: found %s, CelebA-HQ has %s", counts, PUBLISHED)


if __name__ == "__main__":
    run_main(main)
