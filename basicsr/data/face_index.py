"""The index of a face data set: a CSV with a header `path,identity,split` and any further columns.

Paths are relative to the folder of the CSV. A picture stands in it once; a person belongs to one split.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from basicsr.utils.errors import OptionError

REQUIRED = ("path", "identity", "split")
SPLITS = ("train", "val", "test")


class FaceRow(NamedTuple):
    """One picture."""

    path: Path
    identity: str
    split: str
    attributes: dict[str, str]  # the further columns


class FaceIndex:
    """Pictures, and who is on them.

    Args:
        rows: in the order of the file.
    """

    def __init__(self, rows: Sequence[FaceRow]) -> None:
        self.rows = list(rows)
        self.by_identity: dict[str, list[int]] = {}  # numbers of a person's rows
        for number, row in enumerate(self.rows):
            self.by_identity.setdefault(row.identity, []).append(number)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def paths(self) -> list[Path]:
        return [row.path for row in self.rows]

    @classmethod
    def read(cls, path: str | Path, split: str | None = None) -> FaceIndex:
        """Read an index; `split` keeps the rows of one split, None keeps all. The whole file is checked either way.

        Raises:
            OptionError: with the line, where a row is short, a picture comes twice, a split is not one of SPLITS, or a
                person is in two splits; or when the split has no row.
        """
        path = Path(path)
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                rows = list(_checked_rows(path, file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise OptionError(f"{path}: the index cannot be read ({error}).") from error
        kept = [row for row in rows if split in (None, row.split)]
        if not kept:
            there = ", ".join(sorted({row.split for row in rows}))
            raise OptionError(
                f"{path}: no picture in split '{split}'; there is {there}." if rows else f"{path}: empty."
            )
        return cls(kept)


def _checked_rows(path: Path, file: Iterator[str]) -> Iterator[FaceRow]:
    """The rows of an index, one after the other, each checked against those before."""
    lines = csv.reader(file)
    header = [name.strip() for name in next(lines, [])]
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise OptionError(f"{path}:1: the header lacks {', '.join(missing)}; expected {','.join(REQUIRED)}[,...].")
    if len(set(header)) < len(header):
        raise OptionError(f"{path}:1: a column stands twice in the header {','.join(header)}.")
    places = [header.index(name) for name in REQUIRED]
    others = [(name, place) for place, name in enumerate(header) if name not in REQUIRED]
    folder = path.parent
    line_of: dict[str, int] = {}
    split_of: dict[str, str] = {}
    for line in lines:
        if not line:
            continue
        where = f"{path}:{lines.line_num}"
        if len(line) != len(header):
            raise OptionError(f"{where}: {len(line)} fields, the header has {len(header)}.")
        name, identity, split = (line[place] for place in places)
        if not name or split not in SPLITS:
            raise OptionError(f"{where}: path '{name}', split '{split}'; expected a path, and one of {SPLITS}.")
        first_line = line_of.setdefault(name, lines.line_num)
        if first_line != lines.line_num:
            raise OptionError(f"{where}: '{name}' stands in line {first_line} already.")
        if identity and split_of.setdefault(identity, split) != split:
            raise OptionError(
                f"{where}: '{identity}' is in split '{split}' and in '{split_of[identity]}'; a person belongs to one "
                "split, else the test knows its people from the training."
            )
        yield FaceRow(folder / name, identity, split, {key: line[place] for key, place in others})
