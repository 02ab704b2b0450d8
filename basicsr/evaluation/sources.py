"""Where the pictures of an evaluation are, and looking them up by name.

Pictures belong together when their paths below the folders agree up to the suffix, else when their stems do and are
unique; or as a CSV says (pair_table.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from basicsr.evaluation.results import EvaluationPair, Failure
from basicsr.utils.img_util import list_images

ANY_RUN = ""  # key of `Sources.ref` for the folder that holds for every run without one of its own
NAMES_SHOWN = 3


@dataclass(frozen=True)
class Sources:
    """Where the pictures are.

    Args:
        restored: folder by name of the run.
        gt: folder; absent when the CSV has a column gt, or when the set has no ground truth.
        ref: folder by name of the run, or under ANY_RUN for all runs.
        lq: folder of the degraded pictures.
        gallery: folder of photos of the same people that no run was given.
        masks: folder of masks of the face, not zero inside.
        pairs: CSV; its relative paths start at the folder given for that column, else beside the CSV.
        identities: CSV with columns path and identity (an index CSV does); its further columns give slices.
    """

    restored: Mapping[str, Path]
    gt: Path | None = None
    ref: Mapping[str, Path] = field(default_factory=dict)
    lq: Path | None = None
    pairs: Path | None = None
    identities: Path | None = None
    gallery: Path | None = None
    masks: Path | None = None


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
