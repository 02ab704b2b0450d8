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
import json
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import NamedTuple

import _root  # noqa: F401 - puts the repository root on sys.path, refuses a foreign basicsr
import cv2

from basicsr.data.generated_faces import GENERATOR_VERSION, person_at, photo_at, render
from basicsr.utils.cli import progress, run_main
from basicsr.utils.errors import ImageFileError, UserError
from basicsr.utils.img_util import imread, imwrite

logger = logging.getLogger(__name__)

COLUMNS = ("path", "identity", "split", "yaw", "pitch", "eyeglasses", "hat", "earrings")
SIZES = range(32, 1025)
SETTINGS_FILE = "settings.json"


class Settings(NamedTuple):
    """What the pixels depend on besides the numbers of person and photo."""

    seed: int
    size: int  # px
    format: str  # png, jpg, webp


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    out, settings = Path(args.out), Settings(args.seed, args.size, args.format)
    splits = split_people(args.splits, args.people)
    claim_folder(out, settings)
    started = time.perf_counter()
    numbers = range(args.offset, args.offset + args.people)
    drawn = sum(draw_people(out, settings, numbers, args.photos, args.workers))
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


def split_people(text: str, num_people: int) -> list[str]:
    """Name of the split of each person, in order; `text` as in "train=.8,val=.1,test=.1" or "train=80,val=20".

    Raises:
        UserError: the text cannot be read, does not add up, or a split would be empty.
    """
    parts: dict[str, str] = {}
    for item in text.split(","):
        name, _, amount = (piece.strip() for piece in item.partition("="))
        if not name or name in parts:
            raise UserError(f"--splits {text}: expected name=share,name=share,... with each name once.")
        parts[name] = amount
    try:
        amounts = [float(amount) for amount in parts.values()]
    except ValueError as error:
        raise UserError(f"--splits {text}: {error}.") from error
    if all(amount.isdecimal() for amount in parts.values()) and sum(amounts) == num_people:
        counts = [int(amount) for amount in amounts]
    elif min(amounts) >= 0 and abs(sum(amounts) - 1) < 1e-6:
        counts = [max(1, int(share * num_people)) for share in amounts]
        counts[counts.index(max(counts))] += num_people - sum(counts)
    else:
        raise UserError(f"--splits {text}: shares must add up to 1, or numbers of people to --people {num_people}.")
    if min(counts) < 1:
        raise UserError(f"--splits {text}: {num_people} people are too few to put somebody in every split.")
    return [name for name, count in zip(parts, counts, strict=True) for _ in range(count)]


def claim_folder(out: Path, settings: Settings) -> None:
    """Make the folder, or check that what it holds was made with the same settings: pictures are kept, never mixed."""
    wanted = {**settings._asdict(), "generator": GENERATOR_VERSION}
    file = out / SETTINGS_FILE
    try:
        out.mkdir(parents=True, exist_ok=True)
        if file.exists():
            found = json.loads(file.read_text(encoding="utf-8"))
            if found != wanted:
                raise UserError(
                    f"{out}: was made with {found}, now asked for {wanted}. Take another folder or remove it."
                )
        elif (out / "index.csv").exists():
            raise UserError(f"{out}: holds another data set (index.csv without {SETTINGS_FILE}). Take another folder.")
        else:
            write_text(file, json.dumps(wanted) + "\n")
    except OSError as error:
        raise UserError(f"{out}: cannot be used ({error.strerror}).") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{file}: not JSON ({error}). Remove the folder and run again.") from error


def draw_people(out: Path, settings: Settings, numbers: Sequence[int], num_photos: int, workers: int) -> Iterator[int]:
    """Draw all pictures that are missing, people spread over the workers; yields how many each person took."""
    draw = partial(draw_person, out, settings, num_photos)
    if workers == 1:
        yield from progress(map(draw, numbers), total=len(numbers), desc="people")
        return
    # spawn: a forked child inherits the locks of the threads that OpenCV and torch have started, and may wait for ever
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=prepare_worker) as pool:
        jobs = [pool.submit(draw, number) for number in numbers]
        try:
            for job in progress(as_completed(jobs), total=len(jobs), desc="people"):
                yield job.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died: see its message above; if there is none, memory ran out: take fewer --workers."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)  # after Ctrl-C: finish the person under work, no more


def prepare_worker() -> None:
    """One thread each, and Ctrl-C is the parent's business."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def draw_person(out: Path, settings: Settings, num_photos: int, number: int) -> int:
    """Draw the photos of one person that are not there yet, whole and of the right size; returns how many it drew."""
    person, drawn = person_at(settings.seed, number), 0
    for index in range(num_photos):
        path = out / relative_path(number, index, settings.format)
        if path.exists() and is_whole(path, settings.size):
            continue
        imwrite(path, render(person, photo_at(settings.seed, number, index), settings.size))
        drawn += 1
    return drawn


def is_whole(path: Path, size: int) -> bool:
    """Whether the picture can be decoded and is (size, size)."""
    try:
        return imread(path).shape == (size, size, 3)
    except ImageFileError:
        return False


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


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name, then rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    os.replace(temporary, path)


if __name__ == "__main__":
    run_main(main)
