"""Difference hashes of pictures: which are copies of one photo, whatever file they are in. Two, or many, all with all.

256 bits, not the usual 64: aligned faces resemble each other. Among 11 739 of LFW, 64 bits with 2 of tolerance found
27 pairs of different names, 4 of them copies; 256 bits with 24 found those 4. A copy through JPEG of quality 30 differs
in 7 of 256 bits as a rule (99 in 100: at most 25), through half the size in 2 (9); moved by 1 px of 128 in 19 (30).

Shapes: N pictures; 256 bits of a hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from basicsr.data.similarity import Floats, Pairs, similar_pairs
from basicsr.utils.img_util import Image
from basicsr.utils.picture_features import picture_features

HASH_SIDE = 16  # px
NUM_BITS = HASH_SIDE**2
SAME_PHOTO_BITS = 24  # photos whose hashes differ in at most so many bits count as one photo


class PhotoHash(NamedTuple):
    """The hash of a picture and that of its mirror image, bool (256,) each."""

    plain: NDArray[np.bool_]
    mirrored: NDArray[np.bool_]

    def looks_like(self, other: PhotoHash, max_bits: int = SAME_PHOTO_BITS) -> bool:
        """Whether two pictures are copies of one photo, mirrored ones included."""
        return any(np.count_nonzero(bits != other.plain) <= max_bits for bits in self)


def photo_hash(image: Image) -> PhotoHash:
    """Whether each pixel of a 16x17 miniature is darker than its right neighbour, row by row."""
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    small = cv2.resize(gray, (HASH_SIDE + 1, HASH_SIDE), interpolation=cv2.INTER_AREA)
    return PhotoHash(*(np.asarray(one[:, :-1] < one[:, 1:]).ravel() for one in (small, small[:, ::-1])))


class HashedFiles(NamedTuple):
    """Hashes as unit rows of +-1/16: their cosine is 1 - 2 * (bits that differ) / 256. Zero where a picture failed."""

    plain: Floats  # (N, 256)
    mirrored: Floats  # (N, 256), of the mirror image
    ok: NDArray[np.bool_]  # (N,)
    failures: list[tuple[Path, str]]


def hash_files(paths: Sequence[Path], cache: str | Path | None = None, threads: int = 4) -> HashedFiles:
    """The hash of each picture and of its mirror image; see `picture_features` for the cache and for failures."""

    def hashes(image: Image) -> NDArray[np.uint8]:
        return np.packbits(np.stack(photo_hash(image)), axis=1)  # (2, 32)

    found = picture_features(
        paths, hashes, lambda items: {"bits": np.stack(items)}, f"difference hash of {NUM_BITS} bits and its mirror",
        cache, 256, threads, "hash",
    )  # fmt: skip
    bits = np.unpackbits(found.columns["bits"], axis=2).astype(np.float32)  # (N, 2, 32) -> (N, 2, 256)
    signs = (bits * 2 - 1) / HASH_SIDE * found.ok[:, None, None]
    return HashedFiles(
        np.ascontiguousarray(signs[:, 0], np.float32),
        np.ascontiguousarray(signs[:, 1], np.float32),
        found.ok,
        found.failures,
    )


def same_photos(
    hashes: HashedFiles, others: HashedFiles | None, max_bits: int = SAME_PHOTO_BITS
) -> tuple[Pairs, Pairs]:
    """Pairs whose hashes differ in at most `max_bits` bits: as they are, and with one of the two mirrored.

    Args:
        others: None: pairs within `hashes`, each once.
    """
    threshold = 1 - (2 * max_bits + 1) / NUM_BITS  # between two whole numbers of bits: no rounding decides
    plain = similar_pairs(hashes.plain, None if others is None else others.plain, threshold, "same photo")
    mirrored = similar_pairs(hashes.plain, (others or hashes).mirrored, threshold, "mirror image")
    if others is None:
        mirrored = mirrored.where(mirrored.first < mirrored.second)
    return plain, mirrored


def differing_bits(pairs: Pairs) -> NDArray[np.int64]:
    """Bits that differ, from the cosines of a pair of hashes."""
    return np.rint((1 - pairs.cosine) * NUM_BITS / 2).astype(np.int64)
