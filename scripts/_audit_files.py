"""The files that the audit of a data set writes: tables of what was found, and contact sheets to look at."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import _root  # noqa: F401

from basicsr.data.contact_sheet import Group, Tile, write_contact_sheet
from basicsr.data.label_flaws import FLAWS, MISLABELLED, Flaw
from basicsr.data.leakage import FACE, KINDS, Leak
from basicsr.data.photo_list import ListedPhoto
from basicsr.utils.csv_util import write_table

logger = logging.getLogger("audit_leakage")


def relative(path: Path, folder: Path) -> str:
    """A path as it stands in a CSV of that folder."""
    return os.path.relpath(path, folder).replace(os.sep, "/")


def write_leaks(out: Path, leaks: Sequence[Leak]) -> None:
    """leaks.csv, and a sheet for each kind that was found; sheets of an earlier run go."""
    rows = [
        (leak.kind, f"{leak.score:.4g}", relative(leak.test.path, out), relative(leak.train.path, out),
         leak.test.identity, leak.train.identity)
        for leak in leaks
    ]  # fmt: skip
    write_table(out / "leaks.csv", ("kind", "score", "test", "train", "test_identity", "train_identity"), rows)
    for kind in KINDS:
        sheet = out / f"leaks_{kind.replace(' ', '_')}.png"
        sheet.unlink(missing_ok=True)
        groups = [
            Group(f"{leak.score:.3f}" if kind == FACE else f"{leak.score:.0f}", [tile(leak.test), tile(leak.train)])
            for leak in one_per_pair_of_people([leak for leak in leaks if leak.kind == kind])
        ]
        if groups:
            write_contact_sheet(sheet, f"{kind}: test and training", groups)


def one_per_pair_of_people(leaks: Sequence[Leak]) -> list[Leak]:
    """The first leak of each pair of names; photos without a name all stay."""
    first: dict[tuple[str, ...], Leak] = {}
    for leak in leaks:
        names = (leak.test.identity, leak.train.identity)
        key = names if all(names) else (*names, str(leak.test.path), str(leak.train.path))
        first.setdefault(key, leak)
    return list(first.values())


def write_flaws(out: Path, flaws: Sequence[Flaw]) -> None:
    """flaws.csv, a sheet for each kind, and the counts."""
    rows = [
        (flaw.kind, f"{flaw.score:.4f}", relative(flaw.photo.path, out), relative(flaw.other.path, out),
         flaw.photo.identity, flaw.other.identity, flaw.photo.split, flaw.other.split, f"{flaw.other_score:.4f}")
        for flaw in flaws
    ]  # fmt: skip
    header = ("kind", "score", "photo", "other", "identity", "other_identity", "split", "other_split", "other_score")
    write_table(out / "flaws.csv", header, rows)
    for kind in FLAWS:
        sheet = out / f"flaws_{kind.replace(' ', '_')}.png"
        sheet.unlink(missing_ok=True)
        found = [flaw for flaw in flaws if flaw.kind == kind]
        across = sum(flaw.across_splits for flaw in found)
        logger.info("flaws: %5d %s%s", len(found), kind, f", {across} across splits" if kind != MISLABELLED else "")
        groups = [Group(heading(flaw), [tile(flaw.photo), tile(flaw.other)]) for flaw in found]
        if groups:
            write_contact_sheet(sheet, kind, groups)


def heading(flaw: Flaw) -> str:
    """What the figures of a pair mean."""
    if flaw.kind == MISLABELLED:
        return f"own name {flaw.score:.2f}, this one {flaw.other_score:.2f}"
    return f"{flaw.score:.3f}" + (f" ({flaw.photo.split}, {flaw.other.split})" if flaw.across_splits else "")


def tile(photo: ListedPhoto) -> Tile:
    """A photo under its own name."""
    return Tile(photo.path, photo.path.stem)


def write_index(path: Path, photos: Sequence[ListedPhoto]) -> None:
    """An index of photos, with every column that one of them has."""
    columns = list(dict.fromkeys(name for photo in photos for name in photo.attributes))
    rows = [
        (relative(photo.path, path.parent), photo.identity, photo.split or "train",
         *(photo.attributes.get(name, "") for name in columns))
        for photo in photos
    ]  # fmt: skip
    write_table(path, ("path", "identity", "split", *columns), rows)
