"""Parametric faces with a known identity, for the demo and the tests: NumPy and OpenCV only.

A person is a point in a space of about 60 traits, a photo a point in a space of circumstances; both are functions of
(seed, person index, photo index) alone. Pictures are in FFHQ framing: the five landmarks, after the head turn, are
aligned to the FFHQ template by the similarity that a face aligner would find.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from basicsr.data.face_renderer import render_face
from basicsr.data.face_traits import Person, Photo, sample_person, sample_photo
from basicsr.utils.seed import rng_for

GENERATOR_VERSION = 1  # raised when the same (seed, person, photo) is drawn differently

__all__ = [
    "GENERATOR_VERSION",
    "Person",
    "Photo",
    "person_at",
    "photo_at",
    "render",
    "render_with_landmarks",
    "sample_person",
    "sample_photo",
]


def person_at(seed: int, person_index: int) -> Person:
    """The person with that number; the same for ever."""
    return sample_person(rng_for(seed, person_index, 0))


def photo_at(seed: int, person_index: int, photo_index: int) -> Photo:
    """The circumstances of that person's photo with that number."""
    return sample_photo(rng_for(seed, person_index, 1 + photo_index))


def render(person: Person, photo: Photo, size: int) -> NDArray[np.uint8]:
    """Draw the photo: uint8 BGR (size, size, 3), anti-aliased."""
    return render_face(person, photo, size)[0]


def render_with_landmarks(person: Person, photo: Photo, size: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Draw the photo and say where its landmarks are.

    Returns:
        Picture uint8 BGR (size, size, 3); landmarks float32 (5, 2) x, y in pixel indices: left-image eye, right-image
        eye, nose tip, left and right mouth corner.
    """
    return render_face(person, photo, size)
