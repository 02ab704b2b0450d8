"""Pack the pictures of an index or a folder into one LMDB, for the option `lmdb` of the data sets.

    python scripts/make_lmdb.py --source datasets/celebahq/index.csv --out datasets/celebahq/faces.lmdb

The files' own bytes are kept. A picture that cannot be decoded is named and left out. Interrupted, the same command
goes on; run again after new pictures have come, it adds them. Needs `pip install lmdb`.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import _root  # noqa: F401

from basicsr.data.face_index import FaceIndex
from basicsr.data.lmdb_store import (
    PAGE,
    close_all,
    missing_files,
    open_environment,
    root_of,
    write_files,
    write_summary,
)
from basicsr.utils.cli import progress, run_main
from basicsr.utils.errors import ImageFileError, UserError
from basicsr.utils.img_util import decode, list_images, read_bytes
from basicsr.utils.text_util import make_folder

logger = logging.getLogger("make_lmdb")

BATCH = 256  # pictures written at once
SPARE_BYTES = 1 << 26  # for the tree above the pictures


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line.

    Raises:
        UserError: a number below its minimum.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="index CSV, or a folder of pictures")
    parser.add_argument("--split", help="of the index; default: all of it")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, by custom NAME.lmdb")
    parser.add_argument("--threads", type=int, default=4, help="that read and check (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.threads < 1:
        raise UserError(f"--threads is {args.threads}, expected at least 1.")
    return args


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 1 where some pictures could not be decoded."""
    args = parse_arguments(argv)
    is_index = args.source.suffix.lower() == ".csv"
    root = root_of(args.source)
    files: Sequence[Path] = FaceIndex.read(args.source, args.split).paths if is_index else list_images(args.source)
    make_folder(args.out)
    close_all()  # LMDB lets a process open a file once
    environment = open_environment(args.out, map_size=SPARE_BYTES + room_for(files))
    try:
        failures = pack(environment, missing_files(environment, files, root), root, args.threads)
        num_pictures = write_summary(environment)
    finally:
        environment.close()
    logger.info("%s: %d pictures", args.out, num_pictures)
    if failures:
        logger.warning("%d of %d pictures left out; a training that asks for them stops", failures, len(files))
    return 1 if failures else 0


def pack(environment: Any, files: Sequence[Path], root: Path, threads: int) -> int:
    """Read, check and write; the number of pictures that are broken, each named in the log."""
    failures = 0
    with ThreadPoolExecutor(threads) as pool, progress(total=len(files), desc="packing") as bar:
        for start in range(0, len(files), BATCH):
            batch = files[start : start + BATCH]
            items = []
            for file, (data, fault) in zip(batch, pool.map(read_whole, batch), strict=True):
                if fault:
                    failures += 1
                    logger.warning("%s", fault)
                else:
                    items.append((file, data))
            write_files(environment, items, root)
            bar.update(len(batch))
    return failures


def read_whole(file: Path) -> tuple[bytes, str]:
    """The bytes of a picture that can be decoded, and what is wrong with one that cannot."""
    try:
        data = read_bytes(file)
        decode(data, str(file))
    except ImageFileError as error:
        return b"", str(error)
    return data, ""


def room_for(files: Sequence[Path]) -> int:
    """Bytes that the files may take at most in an LMDB: whole pages, and a page for the way to them."""
    return sum(2 * PAGE + (file.stat().st_size if file.exists() else 0) for file in files)


if __name__ == "__main__":
    run_main(main)
