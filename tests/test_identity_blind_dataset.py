"""Triplets: whose photos the references are, what they never are, and that a sample is a function of its key."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from basicsr.data.augment import flip
from basicsr.data.degradation import DegradationRanges
from basicsr.data.identity_blind_dataset import IdentityBlindDataset
from basicsr.data.photo_hash import photo_hash
from basicsr.utils.errors import ImageFileError, OptionError
from basicsr.utils.img_util import Image, img2tensor, imread, imwrite

SIZE = 32
PHOTOS = {"Ann": 8, "Bob": 2, "Cy": 3, "Lone": 1}  # all in train


def photo(key: int) -> Image:
    """A smooth random picture; different keys look different."""
    coarse = np.random.default_rng(key).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC))


def write_index(folder: Path, rows: list[str]) -> str:
    (folder / "index.csv").write_text("path,identity,split\n" + "\n".join(rows) + "\n")
    return str(folder / "index.csv")


@pytest.fixture
def index(tmp_path: Path) -> str:
    rows: list[str] = []
    for person, count in PHOTOS.items():
        for number in range(count):
            name = f"{person}{number}.png"
            imwrite(tmp_path / name, photo(len(rows)))
            rows.append(f"{name},{person},train")
    return write_index(tmp_path, rows)


def build(index: str, **options: Any) -> IdentityBlindDataset:
    return IdentityBlindDataset(index, gt_size=SIZE, **{"augment_refs": False, "use_hflip": False, **options})


def pictures_of(dataset: IdentityBlindDataset) -> dict[str, Tensor]:
    """File name -> picture, as a reference that is not augmented comes out."""
    return {row.path.name: img2tensor(imread(row.path)) for row in dataset.faces.rows}


def names_of_refs(sample: dict[str, Any], pictures: dict[str, Tensor]) -> list[str]:
    """File names of a sample's references, found by their pixels."""
    found = sample["refs"][sample["ref_mask"]]
    return [name for ref in found for name, picture in pictures.items() if torch.equal(ref, picture)]


def person_of(name: str) -> str:
    return name.removesuffix(".png").rstrip("0123456789")


def test_references_are_other_photos_of_the_same_person_without_repetition(index):
    dataset = build(index, num_refs=(1, 4))
    pictures = pictures_of(dataset)
    for epoch in range(40):
        sample = dataset[(epoch, 0)]
        names = names_of_refs(sample, pictures)
        assert len(names) == int(sample["ref_mask"].sum()) == len(set(names)) >= 1
        assert {person_of(name) for name in names} == {sample["identity"]}
        assert Path(sample["gt_path"]).name not in names


def test_the_number_of_references_is_drawn_and_bounded_by_the_person(index):
    dataset = build(index, num_refs=(2, 4), sampling="photo")
    counts: dict[str, set[int]] = {}
    for epoch in range(40):
        for place in (0, 8, 10):
            sample = dataset[(epoch, place)]
            counts.setdefault(sample["identity"], set()).add(int(sample["ref_mask"].sum()))
    assert counts == {"Ann": {2, 3, 4}, "Bob": {1}, "Cy": {2}}


def test_photos_of_one_duplicate_group_are_never_reference_and_ground_truth(tmp_path):
    names = [f"{number}.png" for number in range(5)]
    for number, name in enumerate(names):
        imwrite(tmp_path / name, photo(number))
    groups = dict(zip(names, ["a", "a", "", "", "b"], strict=True))
    rows = "".join(f"{name},Ann,train,{group}\n" for name, group in groups.items())
    (tmp_path / "index.csv").write_text("path,identity,split,duplicate_group\n" + rows)
    dataset = build(str(tmp_path / "index.csv"), num_refs=(4, 4), sampling="photo")
    pictures = pictures_of(dataset)
    refs = {Path(s["gt_path"]).name: set(names_of_refs(s, pictures)) for s in (dataset[n] for n in range(5))}
    assert refs == {
        "0.png": {"2.png", "3.png", "4.png"},
        "1.png": {"2.png", "3.png", "4.png"},
        **{name: set(names) - {name} for name in names[2:]},  # an empty group groups nothing
    }


def test_missing_references_are_zeros_behind_the_mask(index):
    sample = build(index, num_refs=(3, 3), sampling="photo")[8]
    assert sample["ref_mask"].tolist() == [True, False, False]
    assert sample["refs"].shape == (3, 3, SIZE, SIZE)
    assert sample["refs"][1:].abs().sum() == 0


def test_identity_sampling_draws_people_evenly_whatever_number_of_photos_they_have(index):
    dataset = build(index)
    drawn = Counter(dataset[(epoch, 0)]["identity"] for epoch in range(450))
    assert set(drawn) == {"Ann", "Bob", "Cy"}  # Lone has no other photo
    for count in drawn.values():
        assert abs(count - 150) < 5 * np.sqrt(450 * 2 / 9)  # five standard deviations


def test_photo_sampling_visits_every_photo_that_has_another_one_once(index):
    dataset = build(index, sampling="photo")
    visited = [Path(dataset[place]["gt_path"]).name for place in range(len(dataset))]
    assert visited == [row.path.name for row in dataset.faces.rows if row.identity != "Lone"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_depends_on_seed_epoch_and_index_alone(index, workers):
    options = {"num_refs": (1, 3), "augment_refs": True, "use_hflip": True, "degradation_large": DegradationRanges()}
    dataset, other = build(index, **options), build(index, seed=1, **options)
    batch = next(
        iter(DataLoader(build(index, **options), batch_size=4, num_workers=workers, sampler=[(5, i) for i in range(4)]))
    )  # type: ignore[arg-type]
    for place in range(4):
        sample = dataset[(5, place)]
        for key in ("gt", "lq", "lq_large", "refs", "ref_mask", "identity_draw"):
            assert torch.equal(batch[key][place], sample[key]), key
    assert not torch.equal(dataset[(5, 0)]["lq"], other[(5, 0)]["lq"])
    assert not torch.equal(dataset[(5, 0)]["lq"], dataset[(6, 0)]["lq"])


def test_a_wrong_reference_is_of_somebody_else_and_leaves_gt_and_lq_alone(index):
    right, wrong = build(index, num_refs=(1, 2)), build(index, num_refs=(1, 2), wrong_reference=True)
    pictures = pictures_of(wrong)
    for epoch in range(40):
        one, other = right[(epoch, 0)], wrong[(epoch, 0)]
        assert torch.equal(one["gt"], other["gt"])
        assert torch.equal(one["lq"], other["lq"])
        people = {person_of(name) for name in names_of_refs(other, pictures)}
        assert len(people) == 1
        assert people.isdisjoint({one["identity"], "Lone"})


def test_copies_and_mirror_images_of_gt_are_no_references(tmp_path, caplog):
    first = photo(0)
    imwrite(tmp_path / "gt.png", first)
    imwrite(tmp_path / "copy.jpg", first, quality=80)
    imwrite(tmp_path / "mirror.png", flip(first))
    imwrite(tmp_path / "brighter.png", np.clip(first * 0.8 + 20, 0, 255).astype(np.uint8))
    index = write_index(tmp_path, [f"{n},Ann,train" for n in ("gt.png", "copy.jpg", "mirror.png", "brighter.png")])
    with caplog.at_level(logging.WARNING):
        sample = build(index, num_refs=(1, 3), sampling="photo")[0]
    assert not sample["ref_mask"].any()
    assert "gt.png: every other photo looks the same" in caplog.text


def test_the_hash_compares_neighbours_of_the_miniature_and_knows_mirror_images():
    ramp = np.repeat(np.linspace(0, 255, SIZE, dtype=np.uint8)[None, :, None], SIZE, 0).repeat(3, 2)
    one, mirrored = photo_hash(ramp), photo_hash(flip(ramp))
    assert one.plain.all()
    assert not mirrored.plain.any()
    assert one.looks_like(mirrored)
    assert not photo_hash(photo(1)).looks_like(photo_hash(photo(2)))


def test_photos_of_one_pose_and_light_are_references_of_each_other(tmp_path):
    """Aligned faces share their coarse shades, and differ in the fine ones: 8x8 bits take these for one photo."""
    shades, rng = photo(0).astype(np.float32), np.random.default_rng(0)
    names = [f"{number}.png" for number in range(4)]
    for name in names:
        detail = cv2.resize(
            rng.integers(-20, 21, (17, 16)).astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_NEAREST
        )
        small = cv2.resize(detail, (9, 8), interpolation=cv2.INTER_AREA)
        coarse = cv2.resize(small, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
        imwrite(tmp_path / name, np.clip(shades + (detail - coarse)[..., None], 0, 255).astype(np.uint8))
    index = write_index(tmp_path, [f"{name},Ann,train" for name in names])
    samples = build(index, num_refs=(3, 3), sampling="photo")
    assert all(samples[number]["ref_mask"].all() for number in range(4))


def test_people_are_held_in_arrays_in_the_order_of_the_file(tmp_path):
    rows = ["1.png,Bob,train", "2.png,,train", "3.png,Ann,train", "4.png,Bob,train", "5.png,,train", "6.png,Cy,train"]
    people = build(write_index(tmp_path, [*rows, "7.png,Ann,train"])).people
    assert [people.photos_of(person).tolist() for person in range(len(people))] == [[0, 3], [2, 6]]
    assert [people.person_of(place) for place in range(4)] == [0, 0, 1, 1]


def test_references_are_augmented_where_asked(index):
    plain, changed = build(index), build(index, augment_refs=True)
    pairs = [(plain[(epoch, 0)]["refs"], changed[(epoch, 0)]["refs"]) for epoch in range(10)]
    assert not any(torch.equal(one, other) for one, other in pairs)


def test_the_splits_people_stay_apart(tmp_path):
    for name in ("1", "2", "3", "4"):
        imwrite(tmp_path / f"{name}.png", photo(int(name)))
    index = write_index(tmp_path, ["1.png,Ann,train", "2.png,Ann,train", "3.png,Bob,val", "4.png,Bob,val"])
    assert {build(index, split="val")[i]["identity"] for i in range(2)} == {"Bob"}


def test_what_cannot_give_references_is_refused(tmp_path, index):
    with pytest.raises(OptionError, match="num_refs"):
        build(index, num_refs=(2, 1))
    lonely = write_index(tmp_path, ["Ann0.png,Ann,train", "Bob0.png,Bob,train", "Cy0.png,,train", "Cy1.png,,train"])
    with pytest.raises(OptionError, match=r"nobody in split 'train' has two photos"):
        build(lonely)
    pair = write_index(tmp_path, ["Ann0.png,Ann,train", "Ann1.png,Ann,train"])
    with pytest.raises(OptionError, match="wrong_reference needs two"):
        build(pair, wrong_reference=True)


def test_a_missing_picture_is_named(tmp_path):
    index = write_index(tmp_path, ["gone0.png,Ann,train", "gone1.png,Ann,train"])
    with pytest.raises(ImageFileError, match=r"gone\d.png: cannot be read"):
        build(index)[0]
