"""Flaws of the labels of a face set: copies of a photo, photos of somebody else, one person under two names.

Shapes: N photos; E embedding; P people.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from basicsr.data.clustering import members_of
from basicsr.data.photo_list import ListedPhoto
from basicsr.data.similarity import Floats, Ints, similar_pairs

DUPLICATE, MISLABELLED, TWO_NAMES = "near duplicate", "mislabelled", "two names"
FLAWS = (DUPLICATE, MISLABELLED, TWO_NAMES)


class Limits(NamedTuple):
    """Cosines from which a flaw is one."""

    duplicate: float = 0.97  # two photos: at least that similar
    mislabelled: float = 0.2  # a photo and the most similar one with its name: less than that
    two_names: float = 0.6  # the mean embeddings of two names: at least that


class Flaw(NamedTuple):
    """Two photos that tell of it."""

    kind: str  # of FLAWS
    score: float  # the cosine that Limits speaks of
    photo: ListedPhoto
    other: ListedPhoto  # mislabelled: the most similar photo of all
    other_score: float  # mislabelled: the cosine to that; else that of the two photos

    @property
    def across_splits(self) -> bool:
        """Whether the two photos are in different splits."""
        return self.photo.split != self.other.split


def label_flaws(photos: Sequence[ListedPhoto], vectors: Floats, limits: Limits = Limits()) -> list[Flaw]:  # noqa: B008
    """All flaws of the photos with embeddings (N, E); the worst of each kind first. Photos without a name count for
    duplicates alone."""
    names = np.array([photo.identity for photo in photos])
    _, people = np.unique(names, return_inverse=True)
    return [
        *duplicates(photos, vectors, limits.duplicate),
        *mislabelled(photos, vectors, people, limits.mislabelled),
        *two_names(photos, vectors, people, limits.two_names),
    ]


def duplicates(photos: Sequence[ListedPhoto], vectors: Floats, limit: float) -> list[Flaw]:
    """Pairs of photos at least that similar, of one person or of two."""
    pairs = similar_pairs(vectors, None, limit, "near duplicates")
    order = np.argsort(-pairs.cosine, kind="stable")
    return [
        Flaw(DUPLICATE, cosine, photos[i], photos[j], cosine)
        for i, j, cosine in zip(
            pairs.first[order], pairs.second[order], pairs.cosine[order].astype(float).tolist(), strict=True
        )
    ]


def mislabelled(photos: Sequence[ListedPhoto], vectors: Floats, people: Ints, limit: float) -> list[Flaw]:
    """Photos of people with several that resemble none of the others; beside each the photo that it resembles most."""
    found: list[tuple[float, int]] = []
    for members in members_of(people):
        if len(members) == 1 or not photos[members[0]].identity:
            continue
        cosines = vectors[members] @ vectors[members].T
        np.fill_diagonal(cosines, -1)
        best = cosines.max(1)
        found += [(float(best[row]), int(members[row])) for row in np.flatnonzero(best < limit)]
    flaws = []
    for score, place in sorted(found):
        cosines = vectors @ vectors[place]
        cosines[place] = -1
        nearest = int(cosines.argmax())
        flaws.append(Flaw(MISLABELLED, score, photos[place], photos[nearest], float(cosines[nearest])))
    return flaws


def two_names(photos: Sequence[ListedPhoto], vectors: Floats, people: Ints, limit: float) -> list[Flaw]:
    """Pairs of names whose mean embeddings are that similar, with their two most similar photos."""
    middles = np.zeros((people.max() + 1, vectors.shape[1]), np.float32)
    np.add.at(middles, people, vectors)
    photos_of = members_of(people)
    for person, members in enumerate(photos_of):
        if not photos[members[0]].identity:
            middles[person] = 0  # no name is nobody's name
    middles /= np.maximum(np.linalg.norm(middles, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    pairs = similar_pairs(middles, None, limit, "two names")
    flaws = []
    for row in np.argsort(-pairs.cosine, kind="stable"):
        one, other = photos_of[pairs.first[row]], photos_of[pairs.second[row]]
        cosines = vectors[one] @ vectors[other].T
        i, j = np.unravel_index(cosines.argmax(), cosines.shape)
        flaws.append(Flaw(TWO_NAMES, float(pairs.cosine[row]), photos[one[i]], photos[other[j]], float(cosines[i, j])))
    return flaws
