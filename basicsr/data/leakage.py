"""Leaks from training into a test: a person by name, a photo by its hash, a person by the face.

Shapes: T photos of the test; R photos of the training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from basicsr.data.photo_hash import HashedFiles, differing_bits, same_photos
from basicsr.data.photo_list import ListedPhoto
from basicsr.data.similarity import Floats, similar_pairs

IDENTITY, FILE, PHOTO, MIRRORED, FACE = "identity", "file", "photo", "mirrored photo", "face"
KINDS = (IDENTITY, FILE, PHOTO, MIRRORED, FACE)
MEANING = {
    IDENTITY: "people with one name in both",
    FILE: "files in both",
    PHOTO: "pairs of photos that look the same",
    MIRRORED: "pairs of photos that look the same, one mirrored",
    FACE: "pairs of different or no names whose faces are one person's",
}


class Leak(NamedTuple):
    """A photo of the test and one of the training that should not both be there."""

    kind: str  # of KINDS
    score: float  # photos of the training (identity), differing bits of the hash (photo), cosine (face)
    test: ListedPhoto
    train: ListedPhoto


def identity_leaks(test: Sequence[ListedPhoto], train: Sequence[ListedPhoto]) -> list[Leak]:
    """One for each name in both, with the first photo of either."""
    photos_of: dict[str, list[ListedPhoto]] = {}
    for photo in train:
        if photo.identity:
            photos_of.setdefault(photo.identity, []).append(photo)
    first: dict[str, ListedPhoto] = {}
    for photo in test:
        if photo.identity in photos_of:
            first.setdefault(photo.identity, photo)
    return [Leak(IDENTITY, len(photos_of[name]), photo, photos_of[name][0]) for name, photo in sorted(first.items())]


def file_leaks(test: Sequence[ListedPhoto], train: Sequence[ListedPhoto]) -> list[Leak]:
    """One for each file that is in both."""
    there = {photo.path.resolve(): photo for photo in train}
    return [Leak(FILE, 0.0, photo, there[photo.path.resolve()]) for photo in test if photo.path.resolve() in there]


def photo_leaks(
    test: Sequence[ListedPhoto], train: Sequence[ListedPhoto], hashes: HashedFiles, others: HashedFiles, max_bits: int
) -> list[Leak]:
    """Photos that look the same, by the hashes (T) of the test and (R) of the training; files in both left out."""
    leaks = []
    for kind, pairs in zip((PHOTO, MIRRORED), same_photos(hashes, others, max_bits), strict=True):
        for i, j, bits in zip(pairs.first, pairs.second, differing_bits(pairs), strict=True):
            if test[i].path.resolve() != train[j].path.resolve():
                leaks.append(Leak(kind, float(bits), test[i], train[j]))
    return leaks


def face_leaks(
    test: Sequence[ListedPhoto], train: Sequence[ListedPhoto], vectors: Floats, others: Floats, threshold: float
) -> list[Leak]:
    """Faces of one person, by the embeddings (T, E) and (R, E), under different names or none; most similar first."""
    pairs = similar_pairs(vectors, others, threshold, "same face")
    leaks = [
        Leak(FACE, float(cosine), test[i], train[j])
        for i, j, cosine in zip(pairs.first, pairs.second, pairs.cosine, strict=True)
        if (not test[i].identity or test[i].identity != train[j].identity)
        and test[i].path.resolve() != train[j].path.resolve()
    ]
    return sorted(leaks, key=lambda leak: -leak.score)


def without_leaks(train: Sequence[ListedPhoto], leaks: Iterable[Leak]) -> list[ListedPhoto]:
    """The training without every person, and every photo without a name, that leaks."""
    leaks = list(leaks)
    people = {leak.train.identity for leak in leaks} - {""}
    files = {leak.train.path for leak in leaks}
    return [photo for photo in train if photo.identity not in people and photo.path not in files]


def summary(leaks: Sequence[Leak]) -> list[str]:
    """A line for each kind that was found."""
    number = Counter(leak.kind for leak in leaks)
    return [f"{number[kind]:6d} {MEANING[kind]}" for kind in KINDS if kind in number]
