"""The index of a face data set: a CSV with a header `path,identity,split` and any further columns. See docs/data.md.

Paths are relative to the folder of the CSV, or absolute. A picture stands in it once; a person belongs to one split.
N: rows.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from basicsr.data.index_columns import (
    NUMBER_COLUMNS,
    TEXT_COLUMNS,
    NameColumn,
    NameColumnBuilder,
    NumberColumn,
    NumberColumnBuilder,
    Rows,
    RowsOfNames,
    TextColumn,
    TextColumnBuilder,
    kind_of,
)
from basicsr.utils.errors import OptionError
from basicsr.utils.signature import suggest

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

REQUIRED = ("path", "identity", "split")
SPLITS = ("train", "val", "test")
CHUNK = 1 << 9  # rows checked at a time: arrays pay from here on, and more rows leave the cache


class FaceRow(NamedTuple):
    """One picture."""

    path: Path
    identity: str
    split: str
    attributes: dict[str, str]  # the further columns; numbers in their shortest form


class FaceIndex:
    """Pictures, and who is on them.

    Args:
        folder: of the CSV.
        names: paths as they stand in the CSV.
        identities: of each picture; empty where nobody knows.
        splits: of each picture.
        attributes: the further columns.
    """

    def __init__(
        self,
        folder: Path,
        names: TextColumn,
        identities: NameColumn,
        splits: NameColumn,
        attributes: Mapping[str, TextColumn | NumberColumn],
    ) -> None:
        self.folder, self.names, self.identities, self.splits = folder, names, identities, splits
        self.attributes = attributes

    def __len__(self) -> int:
        return len(self.names)

    @property
    def rows(self) -> Sequence[FaceRow]:
        """The pictures in the order of the file; each row is made when it is asked for."""
        return View(len(self), self.row_at)

    @property
    def paths(self) -> Sequence[Path]:
        """The files in the order of the file; each path is made when it is asked for."""
        return View(len(self), self.path_at)

    def row_at(self, row: int) -> FaceRow:
        attributes = {name: column[row] for name, column in self.attributes.items()}
        return FaceRow(self.path_at(row), self.identities[row], self.splits[row], attributes)

    def path_at(self, row: int) -> Path:
        return self.folder / self.names[row]

    @cached_property
    def by_identity(self) -> RowsOfNames:
        """Numbers of a person's rows."""
        return RowsOfNames(self.identities)

    def numbers(self, column: str) -> NDArray[np.float32]:
        """A number column (N,), NaN where the cell is empty.

        Raises:
            OptionError: there is no such column, or it holds text.
        """
        found = self.attributes.get(column)
        if isinstance(found, NumberColumn):
            return found.values
        raise OptionError(
            f"{self.folder}: the index has {'text in' if found is not None else 'no'} column '{column}'; "
            f"number columns are {', '.join(NUMBER_COLUMNS)} and attr_<annotation>."
        )

    def take(self, rows: Rows) -> FaceIndex:
        """The index of the chosen rows."""
        attributes = {name: column.take(rows) for name, column in self.attributes.items()}
        return FaceIndex(
            self.folder, self.names.take(rows), self.identities.take(rows), self.splits.take(rows), attributes
        )

    @classmethod
    def read(cls, path: str | Path, split: str | None = None) -> FaceIndex:
        """Read an index; `split` keeps the rows of one split, None keeps all. The whole file is checked either way.

        Raises:
            OptionError: with the line, where a row is short, a picture comes twice, a split is not one of SPLITS, a
                person is in two splits, or a number is none; or when the split has no row.
        """
        path = Path(path)
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                index = _Reader(path, csv.reader(file)).index()
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise OptionError(f"{path}: the index cannot be read ({error}).") from error
        if not len(index):
            raise OptionError(f"{path}: empty.")
        if split is None:
            return index
        kept = np.flatnonzero(np.array([name == split for name in index.splits.names])[index.splits.codes])
        if not len(kept):
            there = ", ".join(sorted(index.splits.names))
            raise OptionError(f"{path}: no picture in split '{split}'; there is {there}.")
        return index if len(kept) == len(index) else index.take(kept)


class View(Sequence[Item]):
    """A sequence whose items are made when they are asked for.

    Args:
        length: number of items.
        item_at: makes the item of a place.
    """

    def __init__(self, length: int, item_at: Callable[[int], Item]) -> None:
        self._length, self._item_at = length, item_at

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> list[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | list[Item]:
        if isinstance(place, slice):
            return [self._item_at(one) for one in range(*place.indices(self._length))]
        return self._item_at(range(self._length)[place])


class _Reader:
    """Reads an index chunk by chunk. A fault is found by arrays, and its line by reading the file once more."""

    def __init__(self, path: Path, lines: Iterator[list[str]]) -> None:
        self.path, self.lines = path, lines
        self.header = _checked_header(path, next(lines, []))
        self.places = [self.header.index(name) for name in REQUIRED]
        self.names, self.identities, self.splits = TextColumnBuilder(), NameColumnBuilder(), NameColumnBuilder()
        self.hashes: list[NDArray[np.int64]] = []
        self.attributes: dict[str, TextColumnBuilder | NumberColumnBuilder] = {}
        for name in self.header:
            kind = kind_of(name)
            if name not in REQUIRED:
                self.attributes[name] = TextColumnBuilder() if kind is None else NumberColumnBuilder(kind)

    def index(self) -> FaceIndex:
        """The whole file."""
        num_read = 0
        while chunk := list(islice(self.lines, CHUNK)):
            rows = [row for row in chunk if row]
            if rows:
                self._add(rows, num_read)
            num_read += len(rows)
        index = FaceIndex(
            self.path.parent,
            self.names.build(),
            self.identities.build(),
            self.splits.build(),
            {name: builder.build() for name, builder in self.attributes.items()},
        )
        self._refuse_copies(index)
        self._refuse_people_in_two_splits(index)
        return index

    def _add(self, rows: list[list[str]], first: int) -> None:
        """Check and keep a chunk; `first` is the number of its first row."""
        width = len(self.header)
        if set(map(len, rows)) != {width}:
            place = next(place for place, row in enumerate(rows) if len(row) != width)
            raise self._fault(first + place, f"{len(rows[place])} fields, the header has {width}.")
        columns = list(zip(*rows, strict=True))
        names, identities, splits = (columns[place] for place in self.places)
        if not set(splits) <= set(SPLITS) or "" in names or "\0" in "".join(names):
            for place, (name, split) in enumerate(zip(names, splits, strict=True)):
                if not name or "\0" in name or split not in SPLITS:
                    shown = name.replace("\0", "\\0")
                    reason = f"path '{shown}', split '{split}'; expected a path, and one of {SPLITS}."
                    raise self._fault(first + place, reason)
        self.names.extend(names)
        self.hashes.append(np.fromiter(map(hash, names), np.int64, len(names)))
        self.identities.extend(identities)
        self.splits.extend(splits)
        for column, builder in self.attributes.items():
            texts = columns[self.header.index(column)]
            bad = builder.extend(texts)
            if bad is not None and isinstance(builder, NumberColumnBuilder):
                reason = f"{column} '{texts[bad]}', expected {builder.kind}, or nothing."
                raise self._fault(first + bad, reason)

    def _refuse_copies(self, index: FaceIndex) -> None:
        """A picture that stands twice. Equal paths have equal hashes; what has, is compared."""
        hashes = np.concatenate(self.hashes) if self.hashes else np.zeros(0, np.int64)
        order = np.argsort(hashes, kind="stable")
        twins = np.flatnonzero(np.diff(hashes[order]) == 0)
        first_row: dict[str, int] = {}
        copies = []
        for row in sorted({int(order[place + step]) for place in twins for step in (0, 1)}):
            if first_row.setdefault(index.names[row], row) != row:
                copies.append(row)
        if copies:
            name = index.names[copies[0]]
            raise self._fault(
                copies[0], f"'{name}' stands in line {self._line_of(first_row[name])} already{_more(copies)}."
            )

    def _refuse_people_in_two_splits(self, index: FaceIndex) -> None:
        """A test on people of the training measures memory."""
        people, splits = index.identities, index.splits
        split_of = np.zeros(len(people.names), np.int32)
        split_of[people.codes[::-1]] = splits.codes[::-1]  # of several writes the last one stays: the first row
        wrong = np.flatnonzero(split_of[people.codes] != splits.codes)
        known = np.array([bool(name) for name in people.names], bool)
        wrong = wrong[known[people.codes[wrong]]]
        if len(wrong):
            row = int(wrong[0])
            before = splits.names[split_of[people.codes[row]]]
            raise self._fault(
                row,
                f"'{people[row]}' is in split '{splits[row]}' and in '{before}'; a person belongs to one split, else "
                f"the test knows its people from the training{_more(wrong.tolist())}.",
            )

    def _fault(self, row: int, reason: str) -> OptionError:
        return OptionError(f"{self.path}:{self._line_of(row)}: {reason}")

    def _line_of(self, row: int) -> int:
        """Line of a row: blank lines count as lines, and a cell in quotes may go over several."""
        with self.path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file)
            next(islice((line for line in lines if line), row + 1, None))  # + 1: the header
            return lines.line_num


def _more(rows: Sequence[int]) -> str:
    return f" ({len(rows) - 1} more rows like it)" if len(rows) > 1 else ""


def _checked_header(path: Path, cells: Sequence[str]) -> list[str]:
    """Names of the columns; one that is unknown and looks like a known one is named in the log."""
    header = [name.strip() for name in cells]
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise OptionError(f"{path}:1: the header lacks {', '.join(missing)}; expected {','.join(REQUIRED)}[,...].")
    if len(set(header)) < len(header):
        raise OptionError(f"{path}:1: a column stands twice in the header {','.join(header)}.")
    known = [*REQUIRED, *NUMBER_COLUMNS, *TEXT_COLUMNS]
    for name in header:
        near = suggest(name, known) if name not in known and kind_of(name) is None else None
        if near:
            logger.warning("%s:1: column '%s' is carried as text; did you mean '%s'?", path, name, near)
    return header
