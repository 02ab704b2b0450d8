"""A gallery of people, and which of them each face of a photo is: by embedding, with a threshold and a margin.

A gallery is a folder with a folder per person, or with one photo per person, called by the file's name. A face that is
not clearly one of them is matched with nobody, and the reason is kept.

Shapes: N faces; P people; E embedding.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from basicsr.inference.values import DOUBTFUL
from basicsr.models.identity_source import IdentityMode
from basicsr.utils.cli import progress
from basicsr.utils.errors import ImageFileError, UserError
from basicsr.utils.img_util import Image, list_images
from basicsr.utils.weights import sha256_of

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Embed = Callable[[Sequence[Image]], Floats]  # aligned faces -> (N, E), unit length

MATCH_THRESHOLD = 0.35
MATCH_MARGIN = 0.1
MAX_REFERENCES = 8  # of a person: more add time and next to nothing else


class Person(NamedTuple):
    """Someone of the gallery."""

    name: str
    files: tuple[Path, ...]  # those that can be used
    embedding: Floats  # (E,), unit length: the mean of the photos


class Match(NamedTuple):
    """Who a face is. `person` is None where nobody was clear enough; then `reason` says why."""

    person: str | None
    similarity: float | None  # cosine to the nearest person
    nearest: str | None
    reason: str = ""


class Gallery:
    """People with the embeddings of their photos. `read_gallery` makes it from a folder.

    Args:
        people: at least one.
        read: a photo's aligned face.
        threshold: least cosine of a face to its person.
        margin: least lead of that person over the next one.
    """

    def __init__(
        self,
        people: Sequence[Person],
        read: Callable[[Path], Image],
        threshold: float = MATCH_THRESHOLD,
        margin: float = MATCH_MARGIN,
    ) -> None:
        self.people = {person.name: person for person in people}
        self.read = read
        self.threshold = threshold
        self.margin = margin

    def match(self, embeddings: Floats) -> list[Match]:
        """Who the faces of one photo are, each person at most once. `embeddings`: (N, E), unit length."""
        known = np.stack([person.embedding for person in self.people.values()])  # (P, E)
        return match_faces(embeddings @ known.T, list(self.people), self.threshold, self.margin)

    def files_of(self, name: str) -> tuple[Path, ...]:
        """The photos that are taken as references of a person: the first MAX_REFERENCES."""
        return self.people[name].files[:MAX_REFERENCES]

    def photos_of(self, name: str) -> list[Image]:
        """The aligned faces of `files_of`."""
        return [self.read(path) for path in self.files_of(name)]


def mode_for(asked: IdentityMode | None, match: Match | None) -> IdentityMode | None:
    """The mode of a face: whoever a gallery refuses is restored blind, unless a mode without references was asked for.

    Not by the face's own identity: that it is too degraded to be told is often why it was refused.
    """
    refused = match is not None and match.person is None
    return "none" if refused and asked in (None, "ref") else asked


def match_faces(similarity: Floats, names: Sequence[str], threshold: float, margin: float) -> list[Match]:
    """Match faces with people, one to one; what is refused goes to nobody, never to the second best.

    Args:
        similarity: (N, P) cosines.
        names: P people.
    """
    matches: list[Match] = []
    for row in similarity:
        order = np.argsort(-row, kind="stable")
        best, name = float(row[order[0]]), names[order[0]]
        lead = best - float(row[order[1]]) if len(order) > 1 else np.inf
        reason = ""
        if best < threshold:
            reason = f"nearest is {name} at {best:.2f}, below the threshold {threshold:g}"
        elif lead < margin:
            reason = f"{name} and {names[order[1]]} are {lead:.2f} apart, below the margin {margin:g}"
        matches.append(Match(None if reason else name, best, name, reason))
    for name in {match.person for match in matches if match.person is not None}:
        claims = [i for i, match in enumerate(matches) if match.person == name]
        winner = max(claims, key=lambda i: similarity[i, list(names).index(name)])
        for i in claims:
            if i != winner:
                reason = f"{name} is face {winner} of this photo, which is more similar"
                matches[i] = matches[i]._replace(person=None, reason=reason)
    return matches


def warn_of_strangers(who: str, files: Sequence[Path], embeddings: Floats, doubtful: float) -> None:
    """Warn of photos that look unlike the others of the same person. `embeddings`: (N, E), unit length."""
    for i in range(len(files) if len(files) > 1 else 0):
        others = np.delete(embeddings, i, axis=0).mean(0)  # (E,)
        cosine = float(embeddings[i] @ others) / max(float(np.linalg.norm(others)), 1e-6)
        if cosine < doubtful:
            logger.warning(
                "%s: %s looks unlike the other photos of the person (cosine %.2f, below %g): they may show two people.",
                who, files[i], cosine, doubtful,
            )  # fmt: skip


def people_of(folder: Path) -> dict[str, list[Path]]:
    """The photos of each person below a gallery's folder.

    Raises:
        UserError: no such folder, or nobody in it; both a folder and a photo of one name.
    """
    if not folder.is_dir():
        raise UserError(f"--ref_dir {folder}: no such folder. Expected a folder per person, or a photo per person.")
    people: dict[str, list[Path]] = {}
    for path in list_images(folder):
        below = path.relative_to(folder)
        people.setdefault(below.parts[0] if len(below.parts) > 1 else path.stem, []).append(path)
    for empty in sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name not in people):
        logger.warning("%s: no photos, %s is left out of the gallery", folder / empty, empty)
    return people


def read_gallery(
    folder: Path,
    read: Callable[[Path], Image],
    embed: Embed,
    *,
    key: str,
    cache: Path | None,
    threshold: float = MATCH_THRESHOLD,
    margin: float = MATCH_MARGIN,
    doubtful: float = DOUBTFUL,
) -> Gallery:
    """Embed the photos of a gallery. A photo that cannot be used is named, and the others go on.

    Args:
        read: a photo's aligned face, see `ReferenceReader.read`.
        key: what else an embedding depends on: recogniser and detector.
        cache: file of embeddings by the sha256 of the photos, read and added to; None: nothing is kept.
        doubtful: photos of one person less alike than this are warned of.
    Raises:
        UserError: nobody has a photo that can be used.
    """
    people = people_of(folder)
    known = _read_cache(cache)
    found: dict[Path, Floats] = {}
    num_cached = 0
    for path in progress([path for files in people.values() for path in files], desc="gallery"):
        entry = hashlib.sha256(f"{sha256_of(path)} {key}".encode()).hexdigest()
        try:
            if entry in known:
                num_cached += 1
            else:
                known[entry] = np.asarray(embed([read(path)])[0], np.float32)
            found[path] = known[entry]
        except ImageFileError as error:
            logger.error("%s", error)
    if cache is not None and num_cached < len(found):
        _write_cache(cache, known)
    gallery = []
    for name, files in people.items():
        usable = [path for path in files if path in found]
        if not usable:
            logger.error("%s: none of %d photos of %s can be used", folder, len(files), name)
            continue
        warn_of_strangers(name, usable, np.stack([found[path] for path in usable]), doubtful)
        mean = np.mean([found[path] for path in usable], axis=0)
        gallery.append(Person(name, tuple(usable), mean / max(float(np.linalg.norm(mean)), 1e-6)))
    if not gallery:
        raise UserError(f"--ref_dir {folder}: nobody has a photo that can be used; the reasons stand above.")
    logger.info("gallery: %d people, %d photos (%d known from before)", len(gallery), len(found), num_cached)
    return Gallery(gallery, read, threshold, margin)


def _read_cache(cache: Path | None) -> dict[str, Floats]:
    """The embeddings of earlier runs; a file that is no such cache is made anew."""
    if cache is None or not cache.is_file():
        return {}
    try:
        return dict(safetensors.numpy.load_file(cache))
    except (safetensors.SafetensorError, OSError) as error:
        logger.warning("%s: no cache of embeddings (%s), it is made anew", cache, error)
        return {}


def _write_cache(cache: Path, embeddings: dict[str, Floats]) -> None:
    """Write under a temporary name, then rename. A folder that cannot be written costs the cache and nothing else."""
    temporary = cache.with_name(f".{cache.name}.tmp")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        safetensors.numpy.save_file(embeddings, temporary)
        temporary.replace(cache)
    except (OSError, safetensors.SafetensorError) as error:
        logger.warning("%s: embeddings are not kept for the next run (%s)", cache, error)
