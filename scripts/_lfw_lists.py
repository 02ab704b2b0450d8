"""LFW's lists: pairs.txt, pairsDev*.txt, people.txt, peopleDev*.txt, and the gallery protocol over several photos.

Copies in the wild have tabs, blanks or commas between the fields, CRLF, or a header: all are read. A row that cannot be
is a line with its number, and the rest goes on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import _root  # noqa: F401
from _crop import Photo
from _prepare import Problems

from basicsr.data.photo_hash import PhotoHash, photo_hash
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import Image

BAD_ROW = "row of a list that cannot be read"
Key = tuple[str, str]  # (person, stem of the photo)


class Pair(NamedTuple):
    """One row of the pairs: two photos, of one person or of two."""

    fold: str  # from "1"; "" where the list has no folds
    same: bool
    first: Key
    second: Key


def read_pairs(path: Path, problems: Problems) -> list[Pair]:
    """The pairs of a file, in its order.

    Raises:
        UserError: the file cannot be read, or holds no pair.
    """
    pairs, num_rows, rows_of_fold = [], 0, 0
    for line, fields in _rows(path):
        if num_rows == 0 and all(field.isdecimal() for field in fields):  # "10 300": folds, pairs of either kind
            rows_of_fold = 2 * int(fields[1]) if len(fields) > 1 else 0
            continue
        if num_rows == 0 and not any(field.isdecimal() for field in fields):
            continue  # a header
        fold = str(1 + num_rows // rows_of_fold) if rows_of_fold else ""
        num_rows += 1
        if len(fields) == 3 and fields[1].isdecimal() and fields[2].isdecimal():
            pairs.append(Pair(fold, True, _key(fields[0], fields[1]), _key(fields[0], fields[2])))
        elif len(fields) == 4 and fields[1].isdecimal() and fields[3].isdecimal():
            pairs.append(Pair(fold, False, _key(fields[0], fields[1]), _key(fields[2], fields[3])))
        else:
            problems.add(BAD_ROW, f"{path}:{line}", f"'{' '.join(fields)}', expected: name n n, or name n name n")
    if not pairs:
        raise UserError(f"{path}: no pairs; expected rows 'name n n' or 'name n name n' as in LFW's pairs.txt.")
    return pairs


def read_people(path: Path, problems: Problems) -> dict[str, tuple[int, str]]:
    """Person -> (number of photos, fold); the fold is "" where the list has none.

    Raises:
        UserError: the file cannot be read, or names nobody.
    """
    people: dict[str, tuple[int, str]] = {}
    counts: list[int] = []  # lone numbers: the number of folds, then people of each fold; or of people alone
    for line, fields in _rows(path):
        if len(fields) == 1 and fields[0].isdecimal():
            counts.append(int(fields[0]))
        elif len(fields) == 2 and fields[1].isdecimal():
            if fields[0] in people:
                problems.add("person named twice in a list", f"{path}:{line}", fields[0])
            people[fields[0]] = (int(fields[1]), str(len(counts) - 1) if len(counts) > 1 else "")
        elif people or counts:
            problems.add(BAD_ROW, f"{path}:{line}", f"'{' '.join(fields)}', expected: name, number of photos")
    if not people:
        raise UserError(f"{path}: names nobody; expected rows 'name n' as in LFW's people.txt.")
    return people


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of the lines that are not empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the list cannot be read ({error}).") from error
    for line, row in enumerate(text.splitlines(), 1):
        fields = [field for field in re.split(r"[\t ,]+", row.strip()) if field]
        if fields:
            yield line, fields


def _key(person: str, number: str) -> Key:
    return person, f"{person}_{int(number):04d}"


class GalleryRow(NamedTuple):
    """A photo to restore, another one as its reference, a third to judge by: all of one person, all different."""

    restore: Photo
    reference: Photo
    judge: Photo


def gallery(photos: Sequence[Photo], read: Callable[[Photo], Image]) -> list[GalleryRow]:
    """One row for each person with three photos that do not look the same (difference hash), the first such three.

    Args:
        photos: of the people of a gallery.
        read: gives a photo's aligned face.
    """
    of_person: dict[str, list[Photo]] = {}
    for photo in sorted(photos, key=lambda photo: photo.crop):
        of_person.setdefault(photo.person, []).append(photo)
    rows = []
    for own in of_person.values():
        chosen: list[tuple[Photo, PhotoHash]] = []
        for photo in own if len(own) >= 3 else ():
            hashed = photo_hash(read(photo))
            if not any(hashed.looks_like(other) for _, other in chosen):
                chosen.append((photo, hashed))
            if len(chosen) == 3:
                rows.append(GalleryRow(*(photo for photo, _ in chosen)))
                break
    return rows
