"""Photos of an index or a folder, for tools that look at whole sets: also at sets that training would refuse."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from basicsr.utils.csv_util import read_rows
from basicsr.utils.errors import OptionError
from basicsr.utils.img_util import list_images


class ListedPhoto(NamedTuple):
    """One picture; identity and split are empty where nobody said."""

    path: Path
    identity: str
    split: str
    attributes: dict[str, str]  # the further columns
    line: int  # of the index; 0 for a folder


def read_photos(source: Path, splits: Sequence[str] = ()) -> list[ListedPhoto]:
    """The photos of an index CSV (columns path, and where known identity, split, ...), or all pictures of a folder.

    Args:
        splits: keep the rows of these; empty: all. A folder has no splits.
    Raises:
        UserError: neither an index nor a folder with pictures, a row without a path, or no row of the splits.
    """
    if source.is_dir():
        if splits:
            raise OptionError(f"{source}: a folder has no splits; give an index for split {', '.join(splits)}.")
        return [ListedPhoto(path, "", "", {}, 0) for path in list_images(source)]
    if not source.is_file():
        raise OptionError(f"{source}: no such index or folder.")
    required = ("path", "split") if splits else ("path",)
    photos = []
    for line, row in read_rows(source, required):
        if not row["path"]:
            raise OptionError(f"{source}:{line}: no path in this row.")
        others = {name: value for name, value in row.items() if name not in ("path", "identity", "split")}
        path = source.parent / row["path"]
        photos.append(ListedPhoto(path, row.get("identity", ""), row.get("split", ""), others, line))
    kept = [photo for photo in photos if not splits or photo.split in splits]
    if not kept:
        there = ", ".join(sorted({photo.split or "(empty)" for photo in photos}))
        raise OptionError(f"{source}: no photo in split {' or '.join(splits)}; there is {there}.")
    return kept
