"""Which restored picture belongs to which ground truth, reference and LQ. What does not match is named, never dropped.

Pictures belong together when their paths below the folders agree up to the suffix, else when their stems do and are
unique; or as a CSV says (columns gt, restored, ref, ref:<run>, lq, identity; several references are joined by ';').
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from basicsr.evaluation.results import EvaluationPair, Failure
from basicsr.utils.csv_util import read_rows
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import list_images

ANY_RUN = ""  # key of `Sources.ref` for the folder that holds for every run without one of its own
NAMES_SHOWN = 3


@dataclass(frozen=True)
class Sources:
    """Where the pictures are.

    Args:
        restored: folder by name of the run.
        gt: folder; may be absent when the CSV has a column gt.
        ref: folder by name of the run, or under ANY_RUN for all runs.
        pairs: CSV; its relative paths start at the folder given for that column, else beside the CSV.
        identities: CSV with columns path and identity (an index CSV does).
    """

    restored: Mapping[str, Path]
    gt: Path | None = None
    ref: Mapping[str, Path] = field(default_factory=dict)
    lq: Path | None = None
    pairs: Path | None = None
    identities: Path | None = None


@dataclass
class Matching:
    """Pairs found, and what was not."""

    pairs: list[EvaluationPair]
    failures: list[Failure]
    warnings: list[str]


class PictureFolder:
    """The pictures below a folder, by path without suffix and by stem."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, list[Path]] = {}
        self._stems: dict[str, list[Path]] = {}
        for path in list_images(folder):
            self.files.setdefault(key_of(path.relative_to(folder)), []).append(path)
            self._stems.setdefault(path.stem, []).append(path)

    def find(self, key: str) -> Path:
        """The one picture that `key` (path without suffix) means.

        Raises:
            LookupError: none, or several, with the reason.
        """
        found = self.files.get(key) or self._stems.get(PurePosixPath(key).name, [])
        if not found:
            raise LookupError(f"no picture of this name in {self.folder}")
        if len(found) > 1:
            names = ", ".join(path.relative_to(self.folder).as_posix() for path in found[:NAMES_SHOWN])
            raise LookupError(f"{len(found)} pictures of this name in {self.folder} ({names})")
        return found[0]


def key_of(path: Path) -> str:
    """`a/b.png` -> `a/b`."""
    return path.with_suffix("").as_posix()


def match(sources: Sources) -> Matching:
    """Find the pairs.

    Raises:
        UserError: a folder is missing or empty, the CSV is broken, or nothing matches at all.
    """
    if not sources.restored:
        raise UserError("nothing to judge: give at least one folder of restored pictures (--restored DIR)")
    runs = {run: PictureFolder(Path(folder)) for run, folder in sources.restored.items()}
    unknown = [run for run in sources.ref if run != ANY_RUN and run not in runs]
    if unknown:
        raise UserError(f"--ref {unknown[0]}=...: no run of this name, there are: {', '.join(runs)}")
    matching = match_csv(sources, runs) if sources.pairs else match_folders(sources, runs)
    if not any(pair.restored for pair in matching.pairs):
        first = next(iter(runs.values()))
        raise UserError(
            f"{first.folder}: none of its pictures matches a ground truth (it holds e.g. {next(iter(first.files))}; "
            f"expected e.g. {matching.pairs[0].name if matching.pairs else 'nothing: no row could be read'}). "
            "Names must agree up to the suffix, or be listed in --pairs CSV"
        )
    if sources.identities:
        label_identities(matching, sources.identities)
    return matching


def match_folders(sources: Sources, runs: Mapping[str, PictureFolder]) -> Matching:
    """Match by name; every picture of the GT folder and of every run is accounted for."""
    if sources.gt is None:
        raise UserError("no ground truth: give --gt DIR, or --pairs CSV with a column gt")
    gt_folder = PictureFolder(sources.gt)
    lq_folder = PictureFolder(sources.lq) if sources.lq else None
    ref_folders = {run: PictureFolder(folder) for run, folder in sources.ref.items()}
    matching = Matching([], [], [])
    used: dict[str, set[Path]] = {run: set() for run in runs}
    for key in gt_folder.files:
        problems = Problems(key)
        gt = problems.find(gt_folder, key, None, "ground truth")
        if gt is None:
            matching.failures += problems.found
            continue
        restored = {run: path for run in runs if (path := problems.find(runs[run], key, run, "restored"))}
        for run, path in restored.items():
            used[run].add(path)
        refs: dict[str, tuple[Path, ...]] = {}
        for run in runs:
            folder = ref_folders.get(run, ref_folders.get(ANY_RUN))
            if folder and (ref := problems.find(folder, key, run if run in ref_folders else None, "reference")):
                refs[run] = (ref,)
        lq = problems.find(lq_folder, key, None, "LQ") if lq_folder else None
        matching.pairs.append(EvaluationPair(key, gt, restored, refs, lq, None))
        matching.failures += problems.found
    for run, folder in runs.items():
        for key, paths in folder.files.items():
            if not used[run].intersection(paths):
                matching.failures.append(Failure(key, run, f"restored, but no ground truth in {sources.gt}"))
    return matching


class Problems:
    """Failures of one pair, each reason once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.found: list[Failure] = []

    def find(self, folder: PictureFolder, key: str, run: str | None, what: str) -> Path | None:
        """`folder.find`, with a failure in place of the exception."""
        try:
            return folder.find(key)
        except LookupError as error:
            self.add(run, f"{what}: {error}")
            return None

    def existing(self, path: Path, run: str | None, what: str) -> Path | None:
        """`path` if it is a file, else None and a failure."""
        if path.is_file():
            return path
        self.add(run, f"{what}: no such file: {path}")
        return None

    def add(self, run: str | None, reason: str) -> None:
        """Note a failure, once."""
        failure = Failure(self.name, run, reason)
        if failure not in self.found:
            self.found.append(failure)


def match_csv(sources: Sources, runs: Mapping[str, PictureFolder]) -> Matching:
    """Match as the rows say. Pictures of a run that no row names are counted in a warning."""
    table = sources.pairs
    if table is None:
        raise ValueError("match_csv needs sources.pairs")
    rows = read_rows(table, required=("gt",) if sources.gt is None else (), one_of=("gt", "restored"))
    gt_folder = PictureFolder(sources.gt) if sources.gt else None
    matching = Matching([], [], [])
    used: dict[str, set[Path]] = {run: set() for run in runs}
    names: set[str] = set()
    for line, row in rows:
        name = key_of(Path(row.get("gt") or row["restored"]))
        if name in names:
            raise UserError(f"{table}:{line}: '{name}' is listed twice")
        names.add(name)
        problems = Problems(name)
        pair = pair_of_row(row, name, sources, runs, gt_folder, problems)
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


def pair_of_row(
    row: Mapping[str, str],
    name: str,
    sources: Sources,
    runs: Mapping[str, PictureFolder],
    gt_folder: PictureFolder | None,
    problems: Problems,
) -> EvaluationPair | None:
    """The pair that one CSV row names; None (and failures) without a ground truth."""
    beside = Path(sources.pairs).parent if sources.pairs else Path()
    if row.get("gt"):
        gt = problems.existing((sources.gt or beside) / row["gt"], None, "ground truth")
    else:
        gt = problems.find(gt_folder, name, None, "ground truth") if gt_folder else None
    if gt is None:
        return None
    lq = problems.existing((sources.lq or beside) / row["lq"], None, "LQ") if row.get("lq") else None
    # results are named after the picture that was restored: the LQ where the row has one
    candidates = [key_of(Path(row["restored"]))] if row.get("restored") else [key_of(Path(row.get("lq") or name)), name]
    restored: dict[str, Path] = {}
    refs: dict[str, tuple[Path, ...]] = {}
    for run, folder in runs.items():
        key = next((key for key in candidates if key in folder.files), candidates[0])
        if path := problems.find(folder, key, run, "restored"):
            restored[run] = path
        own = row.get(f"ref:{run}")
        ref_folder = sources.ref.get(run) or sources.ref.get(ANY_RUN) or beside
        listed = [part.strip() for part in (own or row.get("ref") or "").split(";") if part.strip()]
        found = [problems.existing(ref_folder / part, run if own else None, "reference") for part in listed]
        if kept := tuple(path for path in found if path):
            refs[run] = kept
    return EvaluationPair(name, gt, restored, refs, lq, row.get("identity") or None)


def label_identities(matching: Matching, table: Path) -> None:
    """Fill in the identities that the rows did not say, from a CSV with columns path and identity, in place.

    The table's paths may start higher up than the ground truth folder: the ends of the paths are compared.
    """
    by_tail: dict[str, set[str]] = {}  # every end of a path, without suffix -> identities
    for _, row in read_rows(table, required=("path", "identity")):
        parts = PurePosixPath(key_of(Path(row["path"]))).parts
        for start in range(len(parts)):
            by_tail.setdefault("/".join(parts[start:]), set()).add(row["identity"])
    unknown = []
    for i, pair in enumerate(matching.pairs):
        found = by_tail.get(pair.name) or by_tail.get(PurePosixPath(pair.name).name, set())
        identity = pair.identity or (next(iter(found)) if len(found) == 1 else None)
        if identity is None:
            unknown.append(pair.name)
        matching.pairs[i] = replace(pair, identity=identity)
    if unknown:
        matching.warnings.append(
            f"{len(unknown)} pictures have no identity in {table} and count as people of their own "
            f"({', '.join(unknown[:NAMES_SHOWN])}{', ...' if len(unknown) > NAMES_SHOWN else ''})"
        )
