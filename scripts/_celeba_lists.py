"""The lists of CelebA, CelebA-HQ and CelebAMask-HQ, read as they are found: with a header or not, CRLF, double blanks.

A row that cannot be read is a line with its number, and the rest goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import _root  # noqa: F401
from _prepare import Problems

from basicsr.utils.errors import UserError

BAD_ROW, TWICE = "row of a list that cannot be read", "photo that a list names twice, the first row counts"
LAST_TRAIN, LAST_VAL = 162_770, 182_637  # numbers of the last photos of the official partition's train and val
SPLIT_OF_CODE = {"0": "train", "1": "val", "2": "test"}


class Origin(NamedTuple):
    """Which CelebA photo a CelebA-HQ picture was made of."""

    orig_idx: int  # from 0
    orig_file: str  # 000001.jpg is photo 0


def split_by_number(orig_file: str) -> str:
    """Split of a CelebA photo by the official boundaries; what list_eval_partition.txt says photo by photo."""
    number = int(Path(orig_file).stem)
    return "train" if number <= LAST_TRAIN else "val" if number <= LAST_VAL else "test"


def read_mapping(path: Path, problems: Problems) -> dict[int, Origin]:
    """idx -> origin, from CelebA-HQ-to-CelebA-mapping.txt or PGGAN's image_list.txt (further columns, by its header).

    Raises:
        UserError: the file cannot be read, its header lacks a column, or it holds no row.
    """
    names = ["idx", "orig_idx", "orig_file"]
    mapping: dict[int, Origin] = {}
    for number, (line, fields) in enumerate(_rows(path)):
        if number == 0 and not fields[0].isdecimal():
            names = fields
            missing = {"idx", "orig_idx", "orig_file"} - set(names)
            if missing:
                raise UserError(f"{path}:{line}: the header lacks {', '.join(sorted(missing))}.")
            continue
        row = dict(zip(names, fields, strict=False))
        idx, orig_idx, orig_file = (row.get(name, "") for name in ("idx", "orig_idx", "orig_file"))
        where, stem = f"{path}:{line}", Path(orig_file).stem
        if not (idx.isdecimal() and orig_idx.isdecimal() and stem.isdecimal()):
            problems.add(BAD_ROW, where, f"'{' '.join(fields)}', expected: idx, orig_idx, orig_file")
        elif int(stem) != int(orig_idx) + 1:
            problems.add("mapping row that contradicts itself", where, f"orig_idx {orig_idx} is not {orig_file} less 1")
        elif int(idx) in mapping:
            problems.add("mapping row for a picture that has one", where, f"idx {idx}")
        else:
            mapping[int(idx)] = Origin(int(orig_idx), f"{int(stem):06d}.jpg")
    return _not_empty(mapping, path, "rows 'idx orig_idx orig_file'")


def read_pairs_of_fields(path: Path, allowed: Sequence[str] | None, problems: Problems) -> dict[str, str]:
    """File name -> second field: identity_CelebA.txt, list_eval_partition.txt.

    Args:
        allowed: texts that the second field may be; None: any whole number. A header is a first line with another one.
    Raises:
        UserError: the file cannot be read, or holds no row.
    """
    values: dict[str, str] = {}
    for number, (line, fields) in enumerate(_rows(path)):
        good = len(fields) == 2 and (fields[1].isdecimal() if allowed is None else fields[1] in allowed)
        if good and fields[0] in values:
            problems.add(TWICE, f"{path}:{line}", f"{fields[0]} is {values[fields[0]]}, here {fields[1]}")
        elif good:
            values[fields[0]] = fields[1]
        elif number > 0:
            problems.add(BAD_ROW, f"{path}:{line}", f"'{' '.join(fields)}'")
    return _not_empty(values, path, "rows such as '000001.jpg 1'")


def read_annotations(path: Path, problems: Problems) -> tuple[list[str], dict[str, list[str]]]:
    """(names of the columns, stem of the file -> its values): attribute and pose lists, of CelebA or CelebAMask-HQ.

    The first line may be the number of rows; the next one names the columns.

    Raises:
        UserError: the file cannot be read, or has no header or no row.
    """
    names: list[str] = []
    rows: dict[str, list[str]] = {}
    for line, fields in _rows(path):
        if not names:
            if len(fields) > 1 or not fields[0].isdecimal():
                names = [name for name in fields if name not in ("image_id", "filename")]
            continue
        if len(fields) != len(names) + 1:
            problems.add(BAD_ROW, f"{path}:{line}", f"{len(fields)} fields, expected a file and {len(names)} values")
        elif Path(fields[0]).stem in rows:
            problems.add(TWICE, f"{path}:{line}", fields[0])
        else:
            rows[Path(fields[0]).stem] = fields[1:]
    return names, _not_empty(rows, path, "a line with the names of the columns, then rows '0.jpg 1 -1 ...'")


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of the lines that are not empty; blanks, tabs or commas between the fields."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the list cannot be read ({error}).") from error
    for line, row in enumerate(text.splitlines(), 1):
        fields = row.replace(",", " ").split()
        if fields:
            yield line, fields


def _not_empty(found: dict, path: Path, expected: str) -> dict:
    if not found:
        raise UserError(f"{path}: no row that can be read; expected {expected}.")
    return found
