"""Which pictures a call restores, with which references, and the names of the results.

A result is called like its input: by the stem where that is unique, else by the path below the folder that all inputs
share. A CSV may say the name itself (column `restored`). Two results of one name are refused before anything runs.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from basicsr.utils.csv_util import read_rows
from basicsr.utils.errors import ImageFileError, UserError
from basicsr.utils.img_util import IMAGE_SUFFIXES

logger = logging.getLogger(__name__)

RESULTS_NAME = "results.json"
RESULT_FOLDERS = ("final_results", "restored_faces", "cropped_faces", "comparisons")  # beside it


class Request(NamedTuple):
    """One face that is asked for."""

    path: Path
    refs: tuple[Path, ...]
    name: str | None = None  # of the result, where the caller says one
    where: str = ""  # the line of the CSV, for errors


class Job(NamedTuple):
    """One face to restore."""

    path: Path
    refs: tuple[Path, ...]
    output: Path


def read_pairs(table: Path, needs_refs: bool) -> list[Request]:
    """The rows of a CSV with columns lq, ref and, if it likes, restored.

    Paths are relative to its folder, several references are separated by ';'.

    Args:
        needs_refs: a row without a reference is refused.
    """
    requests = []
    for line, row in read_rows(table, required=("lq", "ref")):
        where = f"{table}:{line}: "
        if not row["lq"]:
            raise UserError(f"{where}lq is empty.")
        refs = tuple(table.parent / ref.strip() for ref in row["ref"].split(";") if ref.strip())
        if needs_refs and not refs:
            raise UserError(f"{where}ref is empty, and --mode ref needs one. Name it, or leave --mode out.")
        requests.append(Request(table.parent / row["lq"], refs, row.get("restored") or None, where))
    return requests


def without_results(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Pictures below a folder, but for those that earlier runs into a folder below it have made.

    Raises:
        ImageFileError: nothing is left.
    """

    @cache
    def is_made(parent: Path) -> bool:
        if parent == folder:
            return False
        made = parent.name in RESULT_FOLDERS and (parent.parent / RESULTS_NAME).is_file()
        return made or is_made(parent.parent)

    kept = [path for path in paths if not is_made(path.parent)]
    if len(kept) < len(paths):
        logger.warning("%s: %d results of earlier runs below it are left out", folder, len(paths) - len(kept))
    if not kept:
        raise ImageFileError(f"{folder}: nothing but results of earlier runs. Name the folder of the photos with -i.")
    return kept


def find_jobs(requests: Sequence[Request], folder: Path, suffix: str | None, ext: str = "png") -> list[Job]:
    """Each request with the file that its result goes to, below `folder`.

    Args:
        suffix: added to the names, after "_".
        ext: format of the results where a CSV does not say it: png, jpg, ... or auto, that of the input.

    Raises:
        UserError: two results would be one file, or a name leads out of `folder`.
    """
    names = [_given_name(r) if r.name else name for r, name in zip(requests, _own_names(requests), strict=True)]
    if ext != "png":
        own = [r.path.suffix.lower() if ext == "auto" else f".{ext}" for r in requests]
        names = [n if r.name else n.with_suffix(e) for r, n, e in zip(requests, names, own, strict=True)]
    jobs: dict[Path, Job] = {}
    for request, name in zip(requests, names, strict=True):
        output = folder / (name.with_stem(f"{name.stem}_{suffix}") if suffix else name)
        taken = jobs.get(output)
        if taken is not None:
            raise UserError(
                f"{request.where}{request.path} and {taken.path} would both be written to {output}. "
                "Give each a name of its own: the column restored of a --pairs CSV."
            )
        jobs[output] = Job(request.path, request.refs, output)
    return list(jobs.values())


def _given_name(request: Request) -> Path:
    """The name that the CSV says, as a path below the folder of the results."""
    name = Path(request.name or "")
    if name.is_absolute() or ".." in name.parts or not name.name:
        raise UserError(f"{request.where}restored is '{request.name}', expected a file name such as 001.png.")
    return name if name.suffix.lower() in IMAGE_SUFFIXES else name.with_name(f"{name.name}.png")


def _own_names(requests: Sequence[Request]) -> list[Path]:
    """The name of each result that follows from its input."""
    paths = [Path(os.path.abspath(request.path)) for request in requests]  # follows no links: names as they were given
    common = os.path.commonpath([path.parent for path in paths])
    below = [path.relative_to(common) for path in paths]
    stems = Counter(path.stem for path in below)
    keys = Counter(path.with_suffix("") for path in below)
    names = []
    for path in below:
        if stems[path.stem] == 1:
            key = Path(path.stem)
        else:
            key = path.with_suffix("") if keys[path.with_suffix("")] == 1 else path  # a.png and a.jpg are two
        names.append(key.with_name(f"{key.name}.png"))
    return names
