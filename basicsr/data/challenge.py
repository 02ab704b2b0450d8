"""Slices of a challenge set: who is in them, and a choice of equally many photos that share no person between slices.

Membership comes from columns that somebody filled in, never from a look at the face; only yaw, a measurement, may be
estimated, by the caller, who says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from basicsr.data.photo_list import ListedPhoto
from basicsr.utils.errors import OptionError

YES, NO = frozenset({"1", "true", "yes"}), frozenset({"0", "-1", "false", "no", ""})
ACCESSORIES = {  # slice -> columns that may hold it, lower case; the second ones are CelebA's names
    "eyeglasses": ("eyeglasses", "glasses"),
    "hat": ("hat", "wearing_hat"),
    "earrings": ("earrings", "wearing_earrings"),
}

Slices = dict[str, list[int]]  # name -> places of the photos that belong there


class Choice(NamedTuple):
    """Photos of each slice, and how many could be had where they are too few."""

    chosen: Slices
    available: dict[str, int]  # with every limit kept, in the order in which slices were filled


def accessory_slice(photos: Sequence[ListedPhoto], name: str, source: str) -> list[int]:
    """Photos whose column for an accessory says yes.

    Raises:
        OptionError: no such column, or a cell that is neither yes nor no.
    """
    column = next((c for c in photos[0].attributes if c.lower() in ACCESSORIES[name]), None)
    if column is None:
        raise OptionError(
            f"{source}: slice {name} needs a column {' or '.join(ACCESSORIES[name])}; "
            f"there is {', '.join(photos[0].attributes) or 'none besides path, identity, split'}."
        )
    members = []
    for place, photo in enumerate(photos):
        cell = photo.attributes[column].lower()
        if cell not in YES | NO:
            raise OptionError(f"{source}:{photo.line}: {column} is '{cell}'; expected 1 or 0 (-1), true or false.")
        if cell in YES:
            members.append(place)
    return members


def yaw_slices(yaw: Sequence[float], edges: Sequence[float]) -> Slices:
    """Photos by the size of their yaw in degrees, a slice for each pair of edges; NaN is in none."""
    slices: Slices = {}
    for low, high in pairwise(edges):
        slices[f"yaw_{low:02g}_{high:02g}"] = [place for place, value in enumerate(yaw) if low <= abs(value) < high]
    return slices


def column_numbers(photos: Sequence[ListedPhoto], column: str, source: str) -> list[float]:
    """A column as numbers; NaN where it is empty.

    Raises:
        OptionError: no such column, or a cell that is no number.
    """
    values = []
    for photo, cell in zip(photos, column_cells(photos, column, source), strict=True):
        try:
            values.append(float(cell) if cell else math.nan)
        except ValueError as error:
            raise OptionError(f"{source}:{photo.line}: {column} is '{cell}', expected a number.") from error
    return values


def column_cells(photos: Sequence[ListedPhoto], column: str, source: str) -> list[str]:
    """A column as text; OptionError where there is none."""
    if column not in photos[0].attributes:
        there = ", ".join(photos[0].attributes) or "none besides path, identity, split"
        raise OptionError(f"{source}: no column {column}; there is {there}. Groups are never guessed from faces.")
    return [photo.attributes[column] for photo in photos]


def group_slices(photos: Sequence[ListedPhoto], column: str, edges: Sequence[float], source: str) -> Slices:
    """Photos by what a column says: a slice for each value, or with edges for each range of numbers; empty is none."""
    if edges:
        values = column_numbers(photos, column, source)
        return {
            f"{column}_{low:g}_{high:g}": [place for place, value in enumerate(values) if low <= value < high]
            for low, high in pairwise(edges)
        }
    slices: Slices = {}
    for place, cell in enumerate(column_cells(photos, column, source)):
        if cell:
            slices.setdefault(f"{column}_{cell}", []).append(place)
    return dict(sorted(slices.items()))


def choose_balanced(
    slices: Mapping[str, Sequence[int]],
    identities: Sequence[str],
    per_slice: int,
    max_per_person: int,
    rng: np.random.Generator,
) -> Choice:
    """`per_slice` photos for each slice, at most `max_per_person` of a person, a person in one slice only.

    The slice with the fewest people is filled first, from the people who could serve the fewest others: a person with
    glasses and a hat goes where they are needed more.

    Args:
        identities: of every photo that the slices name.
    """
    photos_of = {name: _by_person(members, identities) for name, members in slices.items()}
    serves: dict[str, int] = {}
    for people in photos_of.values():
        for person in people:
            serves[person] = serves.get(person, 0) + 1
    taken: set[str] = set()
    choice = Choice({}, {})
    for name in sorted(slices, key=lambda name: (len(photos_of[name]), name)):
        people = {person: photos for person, photos in photos_of[name].items() if person not in taken}
        choice.available[name] = sum(min(len(photos), max_per_person) for photos in people.values())
        drawn = rng.permutation(sorted(people)).tolist()
        chosen: list[int] = []
        for person in sorted(drawn, key=lambda person: serves[person]):  # the drawn order stays among equals
            if len(chosen) == per_slice:
                break
            photos = rng.permutation(people[person])[: min(max_per_person, per_slice - len(chosen))]
            chosen += sorted(photos.tolist())
            taken.add(person)
        choice.chosen[name] = chosen
    return choice


def _by_person(members: Sequence[int], identities: Sequence[str]) -> dict[str, list[int]]:
    people: dict[str, list[int]] = {}
    for place in members:
        people.setdefault(identities[place], []).append(place)
    return people
