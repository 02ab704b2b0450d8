"""Reading an index: rows a second, and the peak memory of a process that holds it, against a plain list of rows.

    python benchmarks/bench_index.py --out results/bench_index.json

Each arm reads a made file in a process of its own: `columns` is `FaceIndex.read`, `look-ups` adds what a data set does
with it (the rows of 100 000 people, 100 000 paths), `data set` is IdentityBlindDataset on the split train, `plain rows`
is csv.DictReader into a list. The plain arm reads a tenth of the rows, for its memory would not do for all.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from basicsr.data.face_index import FaceIndex
from basicsr.data.identity_blind_dataset import IdentityBlindDataset
from basicsr.utils.cli import progress
from basicsr.utils.seed import rng_for
from basicsr.utils.text_util import write_json

PHOTOS_OF_A_PERSON = 5
NUM_PATHS = 100_000
PLAIN_SHARE = 10


def write_index(path: Path, num_rows: int) -> None:
    """People with five photos each, yaw and two accessories; all in `train` but every hundredth person."""
    with path.open("w", encoding="utf-8") as file:
        file.write("path,identity,split,yaw,eyeglasses,hat\n")
        for number in progress(range(num_rows), desc="made rows"):
            person, photo = divmod(number, PHOTOS_OF_A_PERSON)
            split = "val" if person % 100 == 0 else "train"
            yaw = number * 7919 % 1800 / 10 - 90
            file.write(
                f"{person % 1000:03d}/person{person:07d}/{photo:04d}.png,person{person:07d},{split},{yaw:.1f},"
                f"{number % 2},{number % 3 % 2}\n"
            )


def columns(path: Path) -> int:
    return len(FaceIndex.read(path))


def look_ups(path: Path) -> int:
    index = FaceIndex.read(path)
    people = index.by_identity
    num_photos = sum(len(people[name]) for name in list(people)[:NUM_PATHS])
    rows = rng_for(0).integers(0, len(index), NUM_PATHS)
    num_letters = sum(len(str(index.paths[int(row)])) for row in rows)
    assert num_photos
    assert num_letters
    return len(index)


def data_set(path: Path) -> int:
    return len(IdentityBlindDataset(str(path)).people.photos)


def plain_rows(path: Path) -> int:
    with path.open(newline="", encoding="utf-8") as file:
        return len(list(csv.DictReader(file)))


ARMS: dict[str, Callable[[Path], int]] = {
    "columns": columns,
    "look-ups": look_ups,
    "data set": data_set,
    "plain rows": plain_rows,
}


def measure(arm: str, path: Path) -> tuple[int, float, float]:
    """Rows, seconds, and the peak of resident memory (GiB) of this process."""
    start = time.perf_counter()
    num_rows = ARMS[arm](path)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return num_rows, seconds, peak / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="JSON")
    args = parser.parse_args()
    rates, peaks = {}, {}
    spawn = multiprocessing.get_context("spawn")  # a process of its own for each figure: a peak never falls
    with tempfile.TemporaryDirectory() as folder:
        files = {share: Path(folder) / f"index_{share}.csv" for share in (1, PLAIN_SHARE)}
        for share, file in files.items():
            write_index(file, args.rows // share)
        for arm in ARMS:
            file = files[PLAIN_SHARE if arm == "plain rows" else 1]
            measured = []
            for _ in range(args.rounds):
                with spawn.Pool(1) as pool:
                    measured.append(pool.apply(measure, (arm, file)))
            label = f"{arm}, {measured[0][0]} rows"
            rates[label] = round(measured[0][0] / median(seconds for _, seconds, _ in measured))
            peaks[label] = round(median(peak for _, _, peak in measured), 2)
            sys.stdout.write(f"{label}: {rates[label]} rows/s, peak {peaks[label]} GiB\n")
    if args.out is not None:
        report = {"benchmark": "bench_index", "median_rows_per_second": rates, "median_peak_GiB": peaks}
        write_json(args.out, report)


if __name__ == "__main__":
    main()
