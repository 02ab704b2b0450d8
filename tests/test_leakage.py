"""Leaks by name, file, hash and face, and flaws of labels, on made vectors and made pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from people_toys import toy_photo

from basicsr.data.augment import flip
from basicsr.data.label_flaws import DUPLICATE, MISLABELLED, TWO_NAMES, Limits, label_flaws
from basicsr.data.leakage import (
    MIRRORED,
    PHOTO,
    face_leaks,
    file_leaks,
    identity_leaks,
    photo_leaks,
    summary,
    without_leaks,
)
from basicsr.data.photo_hash import hash_files, same_photos
from basicsr.data.photo_list import ListedPhoto
from basicsr.utils.img_util import imwrite


def photo(name: str, identity: str = "", split: str = "train") -> ListedPhoto:
    return ListedPhoto(Path("/made") / name, identity, split, {}, 0)


def rows(*degrees: float) -> np.ndarray:
    """Unit vectors in the plane."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def test_a_name_in_both_is_one_leak_however_many_photos_it_has():
    test = [photo("a1", "a"), photo("a2", "a"), photo("x"), photo("b", "b")]
    train = [photo("a3", "a"), photo("a4", "a"), photo("y"), photo("c", "c")]
    (leak,) = identity_leaks(test, train)
    assert (leak.score, leak.test.path.name, leak.train.path.name) == (2, "a1", "a3")


def test_a_file_in_both_is_a_leak_by_whatever_way_it_is_named():
    test = [ListedPhoto(Path("/made/x/../a.png"), "", "", {}, 0), photo("b.png")]
    assert [leak.test.path.name for leak in file_leaks(test, [photo("a.png"), photo("c.png")])] == ["a.png"]


def test_faces_above_the_threshold_leak_unless_they_have_one_name():
    test, train = [photo("a", "a"), photo("n")], [photo("a2", "a"), photo("b", "b"), photo("c", "c")]
    leaks = face_leaks(test, train, rows(0, 50), rows(1, 5, 60), np.cos(np.radians(20)))
    assert [(leak.test.path.name, leak.train.path.name) for leak in leaks] == [("a", "b"), ("n", "c")]
    assert leaks[0].score == pytest.approx(np.cos(np.radians(5)))
    assert summary(leaks) == ["     2 pairs of different or no names whose faces are one person's"]


def test_the_clean_training_lacks_leaking_people_and_leaking_photos_without_a_name():
    test, train = [photo("t")], [photo("a", "a"), photo("a2", "a"), photo("n"), photo("m")]
    leaks = face_leaks(test, train, rows(0), rows(0, 90, 0, 90), 0.9)
    assert [p.path.name for p in without_leaks(train, leaks)] == ["m"]


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """A photo, itself as JPEG, its mirror image, and two others."""
    images = [toy_photo(0, 0), toy_photo(0, 0), flip(toy_photo(0, 0)), toy_photo(1, 0), toy_photo(2, 0)]
    paths = [tmp_path / f"{i}.{'jpg' if i == 1 else 'png'}" for i in range(5)]
    for path, image in zip(paths, images, strict=True):
        imwrite(path, image)
    return paths


def test_hashes_find_copies_and_mirror_images_and_nothing_else(pictures):
    plain, mirrored = same_photos(hash_files(pictures), None)
    assert list(zip(plain.first, plain.second, strict=True)) == [(0, 1)]
    assert list(zip(mirrored.first, mirrored.second, strict=True)) == [(0, 2), (1, 2)]


def test_copies_between_test_and_training_are_leaks_of_their_kind(pictures):
    test, train = [[ListedPhoto(p, "", "", {}, 0) for p in part] for part in (pictures[:1], pictures[1:])]
    leaks = photo_leaks(test, train, hash_files(pictures[:1]), hash_files(pictures[1:]), 24)
    assert [(leak.kind, leak.train.path.name) for leak in leaks] == [(PHOTO, "1.jpg"), (MIRRORED, "2.png")]


def test_a_picture_that_cannot_be_read_looks_like_nothing(pictures):
    pictures[1].write_bytes(b"")
    hashes = hash_files(pictures)
    assert hashes.ok.tolist() == [True, False, True, True, True]
    plain, mirrored = same_photos(hashes, None)
    assert 1 not in {*plain.first, *plain.second, *mirrored.first, *mirrored.second}


def test_each_flaw_of_the_labels_is_found_once_and_with_its_figure():
    photos = [
        photo("a1", "a"), photo("a2", "a"),  # 2 degrees apart: near duplicates
        photo("b1", "b"), photo("b2", "b"), photo("wrong", "b"),  # at 90, 110 and 240 degrees
        photo("c1", "c", "test"), photo("c2", "c", "test"),  # at 140 and 160: the middle of b and c is close
        photo("n1"), photo("n2"),  # no names
    ]  # fmt: skip
    flaws = label_flaws(photos, rows(0, 2, 90, 110, 240, 140, 160, 280, 310), Limits(0.999, 0.0, 0.5))
    found = [(flaw.kind, flaw.photo.path.name, flaw.other.path.name) for flaw in flaws]
    assert found == [(DUPLICATE, "a1", "a2"), (MISLABELLED, "wrong", "n1"), (TWO_NAMES, "b2", "c1")]
    assert flaws[1].score == pytest.approx(np.cos(np.radians(130)), abs=1e-6)
    assert flaws[1].other_score == pytest.approx(np.cos(np.radians(40)), abs=1e-6)
    assert [flaw.across_splits for flaw in flaws] == [False, False, True]
