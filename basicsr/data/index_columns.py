"""The columns of an index, held as arrays: ten million rows fit in memory, and worker processes share them.

Python objects would cost some hundred bytes for each cell, and counting references to them copies the pages that forked
workers share. N: rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64] | NDArray[np.bool_]
Scalar = TypeVar("Scalar", bound=np.generic)


class Kind(NamedTuple):
    """What the cells of a known column may hold; an empty cell means "not known"."""

    low: float
    high: float
    unit: str
    whole: bool = False

    def allows(self, number: float) -> bool:
        return self.low <= number <= self.high and (not self.whole or number == int(number))

    def __str__(self) -> str:
        return f"{'0 or 1' if self.whole else f'a number from {self.low:g} to {self.high:g}'}{self.unit}"


DEGREES = Kind(-180, 180, " (degrees)")
FLAG = Kind(0, 1, "", whole=True)
FLAG_PREFIX = "attr_"  # attr_young, attr_male, ...: what annotators ticked, under the annotation's own name
NUMBER_COLUMNS: Mapping[str, Kind] = {
    "yaw": DEGREES,  # positive: the face looks to the picture's right, where the source defines it so
    "pitch": DEGREES,
    "roll": DEGREES,
    "eyeglasses": FLAG,
    "hat": FLAG,
    "earrings": FLAG,
    "necklace": FLAG,
    "quality": Kind(-math.inf, math.inf, ""),  # of whatever measure wrote it; higher is better
}
TEXT_COLUMNS = ("age", "gender", "group", "fold", "source", "slice", "yaw_source")


def kind_of(column: str) -> Kind | None:
    """What a column's cells must be; None: any text."""
    return FLAG if column.startswith(FLAG_PREFIX) else NUMBER_COLUMNS.get(column)


class TextColumn(Sequence[str]):
    """N texts as one string of UTF-8 bytes and the place of each in it."""

    def __init__(self, blob: bytearray, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        self.blob, self.starts, self.ends = blob, starts, ends

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, row: int) -> str:  # type: ignore[override]  # no slices: `take` selects
        return self.blob[self.starts[row] : self.ends[row]].decode()

    def __iter__(self) -> Iterator[str]:
        for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True):
            yield self.blob[start:end].decode()

    def take(self, rows: Rows) -> TextColumn:
        """The chosen rows; the bytes are shared."""
        return TextColumn(self.blob, self.starts[rows], self.ends[rows])


class TextColumnBuilder:
    """Collects a TextColumn, chunk by chunk."""

    def __init__(self) -> None:
        self.blob = bytearray()
        self.lengths: list[NDArray[np.int32]] = []

    def extend(self, texts: Sequence[str]) -> None:
        encoded = [text.encode() for text in texts]
        self.lengths.append(np.fromiter(map(len, encoded), np.int32, len(encoded)))
        self.blob += b"".join(encoded)

    def build(self) -> TextColumn:
        ends = np.cumsum(_joined(self.lengths, np.int32), dtype=np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]]) if len(ends) else ends
        return TextColumn(self.blob, starts, ends)


class NumberColumn(Sequence[str]):
    """N numbers, float32; NaN where the cell is empty. As a sequence it gives them as text."""

    def __init__(self, values: NDArray[np.float32]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, row: int) -> str:  # type: ignore[override]
        value = self.values[row]
        return "" if np.isnan(value) else np.format_float_positional(value, trim="-")

    def take(self, rows: Rows) -> NumberColumn:
        return NumberColumn(self.values[rows])


class NumberColumnBuilder:
    """Collects a NumberColumn; `extend` refuses what the kind does not allow."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.chunks: list[NDArray[np.float32]] = []

    def extend(self, texts: Sequence[str]) -> int | None:
        """Add a chunk; returns the first place whose text is no allowed number, None when all are."""
        try:
            values = np.array([float(text) if text else math.nan for text in texts], np.float64)
        except ValueError:
            return self._first_bad(texts)
        known = np.count_nonzero(np.isfinite(values))
        good = known == len(texts) - texts.count("")
        if known and good:
            low, high = np.nanmin(values), np.nanmax(values)
            good = self.kind.low <= low and high <= self.kind.high
            if good and self.kind.whole:
                good = bool(np.all((values == np.floor(values)) | np.isnan(values)))
        if not good:
            return self._first_bad(texts)
        self.chunks.append(values.astype(np.float32))
        return None

    def _first_bad(self, texts: Sequence[str]) -> int:
        for place, text in enumerate(texts):
            try:
                number = float(text) if text else self.kind.low
            except ValueError:
                return place
            if text and not (math.isfinite(number) and self.kind.allows(number)):
                return place
        raise AssertionError("a chunk was refused, and every text in it is allowed")

    def build(self) -> NumberColumn:
        return NumberColumn(_joined(self.chunks, np.float32))


class NameColumn(Sequence[str]):
    """N texts of which many are the same: each stands once, in `names`, and a row holds its number."""

    def __init__(self, names: Sequence[str], codes: NDArray[np.int32]) -> None:
        self.names, self.codes = names, codes

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, row: int) -> str:  # type: ignore[override]
        return self.names[self.codes[row]]

    def take(self, rows: Rows) -> NameColumn:
        return NameColumn(self.names, self.codes[rows])


class NameColumnBuilder:
    """Collects a NameColumn; names are numbered as they come."""

    def __init__(self) -> None:
        self.code_of = _Codes()
        self.chunks: list[NDArray[np.int32]] = []

    def extend(self, texts: Sequence[str]) -> None:
        self.chunks.append(np.fromiter(map(self.code_of.__getitem__, texts), np.int32, len(texts)))

    def build(self) -> NameColumn:
        return NameColumn(list(self.code_of), _joined(self.chunks, np.int32))


class _Codes(dict[str, int]):
    """A new name gets the next number."""

    def __missing__(self, name: str) -> int:
        self[name] = number = len(self)
        return number


class RowsOfNames(Mapping[str, list[int]]):
    """Name -> its rows, in the order of the first rows; the empty name too. Arrays, lists are made when asked for.

    The rows of the name at place p are order[starts[p] : ends[p]].

    Args:
        column: N names.
    """

    def __init__(self, column: NameColumn) -> None:
        self.order = np.argsort(column.codes, kind="stable")
        ordered = column.codes[self.order]
        self.starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        self.ends = np.append(self.starts[1:], len(ordered))
        self._names, self._codes = column.names, ordered[self.starts]
        self._place_of: dict[str, int] | None = None  # made at the first look-up: iterating needs none

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[str]:
        return (self._names[code] for code in self._codes)

    def __getitem__(self, name: str) -> list[int]:
        if self._place_of is None:
            self._place_of = {name: place for place, name in enumerate(self)}
        place = self._place_of[name]
        rows: list[int] = self.order[self.starts[place] : self.ends[place]].tolist()
        return rows


def _joined(chunks: Sequence[NDArray[Scalar]], dtype: type[Scalar]) -> NDArray[Scalar]:
    return np.concatenate(chunks) if chunks else np.zeros(0, dtype)
