"""Make a data set of generated people: parametric faces with known identity, pose, light, expression and accessories.

    python scripts/make_generated_faces.py --out datasets/people --people 200 --photos 8 --size 64
    python scripts/make_generated_faces.py --out datasets/others --people 400 --photos 10 --offset 200

Writes <out>/<person>/<person>_<NN>.png and <out>/index.csv. A person is a function of (--seed, number) alone: sets
whose numbers (--offset .. --offset + --people) do not overlap share nobody. Run again with the same settings it keeps
what is there, so an interrupted run goes on, and --people or --photos can grow. Leaves with 0, or with 2 on a user's
fault.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import _root  # noqa: F401 - puts the repository root on sys.path, refuses a foreign basicsr
from _prepare import claim_folder, is_whole, run_in_processes, split_names

from basicsr.data.generated_faces import GENERATOR_VERSION, person_at, photo_at, render
from basicsr.utils.cli import run_main
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import imwrite
from basicsr.utils.text_util import write_text

logger = logging.getLogger(__name__)

COLUMNS = ("path", "identity", "split", "yaw", "pitch", "eyeglasses", "hat", "earrings")
SIZES = range(32, 1025)


class Settings(NamedTuple):
    """What the pixels depend on besides the numbers of person and photo."""

    seed: int
    size: int  # px
    format: str  # png, jpg, webp


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    out, settings = Path(args.out), Settings(args.seed, args.size, args.format)
    splits = split_names(args.splits, args.people)
    claim_folder(out, {**settings._asdict(), "generator": GENERATOR_VERSION}, may_hold_files=True)
    started = time.perf_counter()
    numbers = range(args.offset, args.offset + args.people)
    draw = partial(draw_person, out, settings, args.photos)
    drawn = sum(run_in_processes(draw, numbers, args.workers, "people"))
    write_index(out, settings, numbers, args.photos, splits)
    seconds = time.perf_counter() - started
    counts = ", ".join(f"{name} {splits.count(name)}" for name in dict.fromkeys(splits))
    kept = args.people * args.photos - drawn
    logger.info(
        "%s: %d people (%s), %d pictures drawn, %d kept, %.1f s",
        out / "index.csv",
        args.people,
        counts,
        drawn,
        kept,
        seconds,
    )
    return 0


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line; values that cannot be raise UserError."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder of the data set; made if missing")
    parser.add_argument("--people", type=int, default=100, help="number of people (default: %(default)s)")
    parser.add_argument("--photos", type=int, default=6, help="photos of each (default: %(default)s)")
    parser.add_argument("--size", type=int, default=64, help="side of a picture, px (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other people (default: %(default)s)")
    parser.add_argument("--offset", type=int, default=0, help="number of the first person (default: %(default)s)")
    parser.add_argument(
        "--splits",
        default="train=.8,val=.1,test=.1",
        help="shares or numbers of people; nobody is in two splits (default: %(default)s)",
    )
    parser.add_argument("--format", choices=("png", "jpg", "webp"), default="png", help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    args = parser.parse_args(argv)
    for name, low in (("people", 1), ("photos", 1), ("seed", 0), ("offset", 0), ("workers", 1)):
        if getattr(args, name) < low:
            raise UserError(f"--{name} {getattr(args, name)}: at least {low} is needed.")
    if args.size not in SIZES:
        raise UserError(f"--size {args.size}: {SIZES.start} to {SIZES.stop - 1} px can be drawn.")
    return args


def draw_person(out: Path, settings: Settings, num_photos: int, number: int) -> int:
    """Draw the photos of one person that are not there yet, whole and of the right size; returns how many it drew."""
    person, drawn = person_at(settings.seed, number), 0
    for index in range(num_photos):
        path = out / relative_path(number, index, settings.format)
        if is_whole(path, settings.size):
            continue
        imwrite(path, render(person, photo_at(settings.seed, number, index), settings.size))
        drawn += 1
    return drawn


def identity_of(number: int) -> str:
    return f"person{number:06d}"


def relative_path(number: int, index: int, suffix: str) -> Path:
    identity = identity_of(number)
    return Path(identity) / f"{identity}_{index:02d}.{suffix}"


def write_index(out: Path, settings: Settings, numbers: Sequence[int], num_photos: int, splits: Sequence[str]) -> None:
    """index.csv: one row a picture; yaw and pitch in degrees, accessories 0 or 1."""
    rows = [",".join(COLUMNS)]
    for number, split in zip(numbers, splits, strict=True):
        for index in range(num_photos):
            photo = photo_at(settings.seed, number, index)
            path = relative_path(number, index, settings.format).as_posix()
            worn = (int(photo.glasses > 0), int(photo.hat > 0), int(photo.earrings))
            rows.append(
                f"{path},{identity_of(number)},{split},{photo.yaw:.1f},{photo.pitch:.1f},{worn[0]},{worn[1]},{worn[2]}"
            )
    write_text(out / "index.csv", "\n".join(rows) + "\n")


if __name__ == "__main__":
    run_main(main)
