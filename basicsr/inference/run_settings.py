"""What a run is told, and what it keeps of a photo on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from basicsr.faces import FaceDetector
from basicsr.inference.gallery import Gallery, Match
from basicsr.inference.jobs import Job
from basicsr.inference.photo import FoundFace, Painter
from basicsr.inference.values import DOUBTFUL, RestoredFace
from basicsr.models.identity_source import IdentityMode
from basicsr.utils.errors import ImageFileError, UserError
from basicsr.utils.img_util import Image
from basicsr.utils.picture import Picture


@dataclass(frozen=True)
class RunSettings:
    """How a run restores.

    Args:
        folder: of the results.
        mode: see `FaceRestorer.restore_batch`, as are the knobs.
        detector: None: inputs are aligned crops.
        read_ref: a reference's aligned face.
        gallery: people; None: each job's own references.
        doubtful: references are reported to which the face is less similar than this, before and after restoration.
        fingerprints: of each job's output, what decides its result.
        grid: the w of a comparison picture for each face; empty: none is made.
    """

    folder: Path
    mode: IdentityMode | None
    knobs: Mapping[str, Any]
    read_ref: Callable[[Path], Image]
    painter: Painter
    detector: FaceDetector | None = None
    gallery: Gallery | None = None
    only_center_face: bool = False
    batch_size: int = 4
    quality: int = 95
    threads: int = 2
    doubtful: float = DOUBTFUL
    fingerprints: Mapping[Path, str] = field(default_factory=dict)
    grid: Sequence[float] = ()


class Prepared(NamedTuple):
    """A job whose pictures could all be read, its faces cut out; or the reason why not."""

    job: Job
    picture: Picture
    found: list[FoundFace]
    refs: list[Image]
    error: ImageFileError | None = None


@dataclass
class OpenPhoto:
    """A photo of which some faces still wait for the network."""

    prepared: Prepared
    matches: list[Match | None]
    faces: list[RestoredFace | UserError | None]
    seconds: list[float]
    sweeps: dict[int, list[tuple[float, RestoredFace | UserError]]] = field(
        default_factory=dict
    )  # by face, with --grid
    error: ImageFileError | None = None  # of painting
