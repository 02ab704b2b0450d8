"""What the data tools share: claimed folders, splits by person, worker processes, problems and their table."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import _root  # noqa: F401
import cv2

from basicsr.data.image_source import read_face
from basicsr.utils.cli import progress
from basicsr.utils.csv_util import write_table
from basicsr.utils.errors import ImageFileError, UserError
from basicsr.utils.img_util import imread, imwrite
from basicsr.utils.parallel import in_order
from basicsr.utils.text_util import make_folder, write_text

logger = logging.getLogger("prepare")

SETTINGS_FILE = "settings.json"
SPLITS = ("train", "val", "test")
JOBS_AHEAD = 8  # of each worker: bounds the memory however many jobs there are
NUM_SHOWN = 10  # problems of one kind in the log; the table has all

Job = TypeVar("Job")
Result = TypeVar("Result")


class Problems:
    """What is wrong with the input: a line each, the rest goes on, counts at the end."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str]] = []  # (kind, place, detail)
        self.counts: Counter[str] = Counter()

    def add(self, kind: str, place: str | Path, detail: str = "") -> None:
        """Note a problem; the first ones of a kind go to the log."""
        self.rows.append((kind, str(place), detail))
        self.counts[kind] += 1
        if self.counts[kind] <= NUM_SHOWN:
            logger.warning("%s: %s%s", place, kind, f" ({detail})" if detail else "")
        elif self.counts[kind] == NUM_SHOWN + 1:
            logger.warning("... more of the kind '%s' are in the table only", kind)

    def write(self, path: Path) -> None:
        """All of them as a table (kind, place, detail), sorted; the counts go to the log."""
        write_table(path, ("kind", "place", "detail"), sorted(self.rows))
        for kind, count in sorted(self.counts.items()):
            logger.info("%6d x %s", count, kind)
        if self.rows:
            logger.info("%d problems in all: %s", len(self.rows), path)


def claim_folder(out: Path, settings: Mapping[str, Any], may_hold_files: bool = False) -> None:
    """Make the folder, or check that what it holds was made with the same settings: files are kept, never mixed.

    Args:
        may_hold_files: a folder with other files is taken, unless there is an index in it that is not ours.
    Raises:
        UserError: it was made with other settings, holds other files, or cannot be written.
    """
    file = out / SETTINGS_FILE
    make_folder(out)
    try:
        if not file.exists():
            # a kill may have left a file under its temporary name: that one is ours
            names = [name for name in sorted(os.listdir(out)) if not (name.startswith(".") and name.endswith(".tmp"))]
            strangers = [name for name in names if not may_hold_files or name == "index.csv"]
            if strangers:
                raise UserError(f"{out}: holds other files already ({strangers[0]}). Take another output folder.")
            write_text(file, json.dumps(settings) + "\n")
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{out}: cannot be used ({error.strerror}).") from error
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error}). Remove the folder and run again.") from error
    if found != settings:
        raise UserError(
            f"{out}: was made with {found}, now asked for {dict(settings)}. Take another output folder or remove it."
        )


def shuffled_people(people: Iterable[str], seed: int) -> list[str]:
    """People in an order that depends on the seed and their names alone.

    So a person's place among others stays the same when people join or leave, and splits change as little as possible.
    """
    return sorted(people, key=lambda person: hashlib.sha256(f"{seed}:{person}".encode()).digest())


def split_names(text: str, num_people: int) -> list[str]:
    """Name of the split of each person, in order; `text` as in "train=.8,val=.1,test=.1" or "train=80,val=20".

    Raises:
        UserError: the text cannot be read, does not add up, or a split would be empty.
    """
    parts: dict[str, str] = {}
    for item in text.split(","):
        name, _, amount = (piece.strip() for piece in item.partition("="))
        if name not in SPLITS or name in parts:
            raise UserError(f"--splits {text}: expected name=share,name=share,... with names of {SPLITS}, each once.")
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
        raise UserError(f"--splits {text}: shares must add up to 1, or numbers of people to all {num_people}.")
    if min(counts) < 1:
        raise UserError(f"--splits {text}: {num_people} people are too few to put somebody in every split.")
    return [name for name, count in zip(parts, counts, strict=True) for _ in range(count)]


def run_in_processes(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    workers: int,
    desc: str,
    start: Callable[[], None] | None = None,
) -> Iterator[Result]:
    """`function` of every job, spread over the workers, in the order of the jobs; with one worker in this process.

    Args:
        start: what a worker process does first, e.g. load a network.
    Raises:
        UserError: a worker died.
    """
    if workers == 1 or len(jobs) < 2:
        if start is not None and jobs:
            start()
        yield from progress(map(function, jobs), total=len(jobs), desc=desc)
        return
    # spawn: a forked child inherits the locks of the threads that OpenCV and torch have started, and may wait for ever
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _prepare_worker, (start,)) as pool:
        try:  # left early, by Ctrl-C or an error, the jobs under work are finished and no more
            yield from progress(in_order(pool, function, jobs, workers * JOBS_AHEAD), total=len(jobs), desc=desc)
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died: see its message above; if there is none, memory ran out. What is done is kept: "
                "run again with fewer --workers."
            ) from error


def _prepare_worker(start: Callable[[], None] | None) -> None:
    """One thread each, and Ctrl-C is the parent's business."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if start is not None:
        start()


def is_whole(path: Path, size: int) -> bool:
    """Whether an earlier run has made this face: it can be decoded, and is (size, size)."""
    try:
        return path.exists() and imread(path).shape == (size, size, 3)
    except ImageFileError:
        return False


class FaceFile(NamedTuple):
    """An aligned face that is checked, or copied at another size."""

    number: int
    source: Path
    target: Path | None  # None: it stays where it is
    size: int | None  # px of the copy

    def finish(self) -> tuple[int, str]:
        """Number, and the reason why the picture cannot be used, "" if it can."""
        try:
            if self.target is None or self.size is None:
                height, width = imread(self.source).shape[:2]
                return self.number, "" if height == width else f"{width}x{height} px, expected a square"
            if not is_whole(self.target, self.size):
                imwrite(self.target, read_face(self.source, self.size, resize=True))
            return self.number, ""
        except ImageFileError as error:
            return self.number, str(error).removeprefix(f"{self.source}: ")


def finish_face(face: FaceFile) -> tuple[int, str]:
    """`FaceFile.finish`, for worker processes."""
    return face.finish()


def log_splits(rows: Iterable[tuple[str, str]]) -> None:
    """People and photos of each split; rows: (identity, split). Photos of nobody count as photos alone."""
    photos: dict[str, Counter[str]] = defaultdict(Counter)
    for identity, split in rows:
        photos[split][identity] += 1
    for split in SPLITS:
        people = {name: count for name, count in photos[split].items() if name}
        several = [count for count in people.values() if count > 1]
        logger.info(
            "%-5s %6d photos, %5d people, of whom %5d with two or more (%d photos)%s",
            split, sum(photos[split].values()), len(people), len(several), sum(several),
            f"; {photos[split]['']} photos of nobody known" if photos[split][""] else "",
        )  # fmt: skip
