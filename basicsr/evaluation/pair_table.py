"""Pairs as a CSV says: columns gt, restored, ref, ref:<run>, lq, gallery, mask, identity; several files joined by ';'.

A column ref:<run> also holds for runs whose last word it is and that have none of their own: ref:wrong for "D wrong".

Any further column describes the picture (yaw, eyeglasses, degradation, ...): the report has a slice for its values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from basicsr.evaluation.results import EvaluationPair
from basicsr.evaluation.runs import split_label
from basicsr.evaluation.sources import (
    ANY_RUN,
    NAMES_SHOWN,
    Matching,
    PictureFolder,
    Problems,
    Sources,
    key_of,
)
from basicsr.utils.csv_util import read_rows
from basicsr.utils.errors import UserError

PICTURE_COLUMNS = ("gt", "restored", "ref", "lq", "gallery", "mask")
NO_SLICES = (*PICTURE_COLUMNS, "identity", "path", "split", "name")


def match_csv(sources: Sources, runs: Mapping[str, PictureFolder]) -> Matching:
    """Match as the rows say. Pictures of a run that no row names are counted in a warning."""
    table = sources.pairs
    if table is None:
        raise ValueError("match_csv needs sources.pairs")
    rows = read_rows(table, one_of=("gt", "lq", "restored"))
    has_gt = sources.gt is not None or "gt" in rows[0][1]
    gt_folder = PictureFolder(sources.gt) if sources.gt else None
    matching = Matching([], [], [])
    used: dict[str, set[Path]] = {run: set() for run in runs}
    names: set[str] = set()
    for line, row in rows:
        name = key_of(Path(row.get("gt") or row.get("lq") or row.get("restored") or f"line {line}"))
        if name in names:
            raise UserError(f"{table}:{line}: '{name}' is listed twice")
        names.add(name)
        problems = Problems(name)
        reader = RowReader(row, name, sources, problems)
        gt = reader.ground_truth(gt_folder) if has_gt else None
        pair = reader.pair(gt, runs) if gt is not None or not has_gt else None
        matching.failures += problems.found
        if pair is not None:
            matching.pairs.append(pair)
            for run, path in pair.restored.items():
                used[run].add(path)
    for run, folder in runs.items():
        left = [key for key, paths in folder.files.items() if not used[run].intersection(paths)]
        if left:
            matching.warnings.append(
                f"{run}: {len(left)} pictures are in no row of {table} and were not judged "
                f"({', '.join(left[:NAMES_SHOWN])}{', ...' if len(left) > NAMES_SHOWN else ''})"
            )
    return matching


class RowReader:
    """What one CSV row names. What is missing becomes a failure."""

    def __init__(self, row: Mapping[str, str], name: str, sources: Sources, problems: Problems) -> None:
        self.row = row
        self.name = name
        self.sources = sources
        self.problems = problems
        self.beside = Path(sources.pairs).parent if sources.pairs else Path()

    def ground_truth(self, folder: PictureFolder | None) -> Path | None:
        """The file that the row names, else the one in the GT folder that is called like the result."""
        if self.row.get("gt"):
            return self.problems.existing((self.sources.gt or self.beside) / self.row["gt"], None, "ground truth")
        if folder is None:
            self.problems.add(None, "ground truth: the column gt is empty")
            return None
        return self.problems.find(folder, self.name, None, "ground truth")

    def pair(self, gt: Path | None, runs: Mapping[str, PictureFolder]) -> EvaluationPair:
        """The pair with everything that is there."""
        row, sources = self.row, self.sources
        # results are named after the picture that was restored: the LQ where the row has one
        named = [key_of(Path(row["restored"]))] if row.get("restored") else []
        candidates = named or [key_of(Path(row.get("lq") or self.name)), self.name]
        restored: dict[str, Path] = {}
        refs: dict[str, tuple[Path, ...]] = {}
        for run, folder in runs.items():
            key = next((key for key in candidates if key in folder.files), candidates[0])
            if path := self.problems.find(folder, key, run, "restored"):
                restored[run] = path
            own = row.get(f"ref:{run}") or row.get(f"ref:{split_label(run)[1]}")
            ref_folder = sources.ref.get(run) or sources.ref.get(ANY_RUN) or self.beside
            if kept := self.files(own or row.get("ref"), ref_folder, run if own else None, "reference"):
                refs[run] = kept
        shared = sources.ref.get(ANY_RUN) or self.beside
        return EvaluationPair(
            name=self.name,
            gt=gt,
            restored=restored,
            refs=refs,
            lq=next(iter(self.files(row.get("lq"), sources.lq or self.beside, None, "LQ")), None),
            identity=row.get("identity") or None,
            gallery=self.files(row.get("gallery"), sources.gallery or self.beside, None, "gallery"),
            mask=next(iter(self.files(row.get("mask"), sources.masks or self.beside, None, "mask")), None),
            shared_refs=self.files(row.get("ref"), shared, None, "reference"),
            attributes=attributes_of(row),
        )

    def files(self, cell: str | None, folder: Path, run: str | None, what: str) -> tuple[Path, ...]:
        """The files that a cell lists, those that are there."""
        listed = [part.strip() for part in (cell or "").split(";") if part.strip()]
        found = [self.problems.existing(folder / part, run, what) for part in listed]
        return tuple(path for path in found if path)


def attributes_of(row: Mapping[str, str]) -> dict[str, str]:
    """The columns that describe the picture; an empty cell says nothing."""
    return {key: cell for key, cell in row.items() if cell and key not in NO_SLICES and not key.startswith("ref:")}


def label_identities(matching: Matching, table: Path) -> None:
    """Fill in the identities that the rows did not say, from a CSV with columns path and identity, in place.

    Its further columns describe the pictures.

    The table's paths may start higher up than the ground truth folder: the ends of the paths are compared.
    """
    by_tail: dict[str, list[dict[str, str]]] = {}  # every end of a path, without suffix -> rows
    for _, row in read_rows(table, required=("path", "identity")):
        parts = PurePosixPath(key_of(Path(row["path"]))).parts
        for start in range(len(parts)):
            by_tail.setdefault("/".join(parts[start:]), []).append(row)
    unknown = []
    for i, pair in enumerate(matching.pairs):
        found = by_tail.get(pair.name) or by_tail.get(PurePosixPath(pair.name).name, [])
        people = {row["identity"] for row in found if row["identity"]}
        identity = pair.identity or (people.pop() if len(people) == 1 else None)
        if identity is None:
            unknown.append(pair.name)
        described = attributes_of(found[0]) if len(found) == 1 else {}
        matching.pairs[i] = replace(pair, identity=identity, attributes={**described, **pair.attributes})
    if unknown:
        matching.warnings.append(
            f"{len(unknown)} pictures have no identity in {table} and count as people of their own "
            f"({', '.join(unknown[:NAMES_SHOWN])}{', ...' if len(unknown) > NAMES_SHOWN else ''})"
        )
