"""The choice of a challenge set, and the tool on a made index."""

from __future__ import annotations

import csv
import logging
from collections import Counter, defaultdict
from pathlib import Path

import curate_challenge_set
import numpy as np
import pytest
from people_toys import toy_photo, write_index, write_people

from basicsr.data.challenge import choose_balanced, yaw_slices
from basicsr.data.face_index import FaceIndex
from basicsr.faces import FFHQ_512, Face
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import Image, imread, imwrite

NUM_PEOPLE = 16
HEADER = "path,identity,split,eyeglasses,Wearing_Hat,yaw,age,gender"


def attributes(person: int, number: int) -> tuple[str, ...]:
    """Half wear glasses, every third a hat, every fourth photo is turned."""
    yaw = (2, -20, 40, 8)[number % 4]
    return (str(person % 2), "1" if person % 3 == 0 else "-1", str(yaw), str(20 + 3 * person), "fm"[person % 2])


@pytest.fixture
def index(tmp_path: Path) -> Path:
    people = write_people(tmp_path / "faces", [4] * NUM_PEOPLE, noise=60.0)
    rows = [(path, who, "test", *attributes(int(who[1:]), int(Path(path).stem))) for path, who in people]
    return write_index(tmp_path / "faces/index.csv", rows, HEADER)


def run(index: Path, *options: str) -> int:
    return curate_challenge_set.main(["--index", str(index), "--out", str(out_of(index)), *options])


def out_of(index: Path) -> Path:
    return index.parent.parent / "challenge"


def rows(index: Path, name: str = "index.csv") -> list[dict[str, str]]:
    with (out_of(index) / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_slices_are_equal_hold_who_they_say_and_share_nobody(index):
    assert run(index, "--slices", "eyeglasses", "hat", "yaw", "--per_slice", "3") == 0
    people: dict[str, set[str]] = defaultdict(set)
    members: Counter[str] = Counter()
    for row in rows(index):
        if row["slice"] != "reference":
            people[row["slice"]].add(row["identity"])
            members[row["slice"]] += 1
            assert row["slice"] != "eyeglasses" or row["eyeglasses"] == "1"
            assert row["slice"] != "hat" or row["Wearing_Hat"] == "1"
            assert row["slice"] != "yaw_30_90" or row["yaw"] == "40"
    assert set(members.values()) == {3}
    assert set(members) == {"eyeglasses", "hat", "yaw_00_15", "yaw_15_30", "yaw_30_90"}
    assert sum(len(names) for names in people.values()) == len(set.union(*people.values()))
    assert imread(out_of(index) / "sheet_hat.png").std() > 10


def test_every_photo_has_references_of_its_person_and_the_index_reads_back(index):
    run(index, "--slices", "hat", "--per_slice", "4", "--max_refs", "2", "--min_refs", "2")
    faces = FaceIndex.read(out_of(index) / "index.csv", "test")
    assert all(path.is_file() for path in faces.paths)
    for pair in rows(index, "pairs.csv"):
        refs = pair["ref"].split(";")
        assert len(refs) == 2
        assert pair["gt"] not in refs
        assert {Path(ref).parent.name for ref in refs} == {pair["identity"]}


def test_nobody_is_in_a_slice_more_often_than_allowed(index):
    run(index, "--slices", "yaw", "--yaw_bins", "0", "90", "--per_slice", "12", "--max_per_person", "3")
    counts = Counter(row["identity"] for row in rows(index) if row["slice"] == "yaw_00_90")
    assert set(counts.values()) == {3}


def test_a_seed_draws_the_same_set_and_another_another(index):
    run(index, "--slices", "eyeglasses", "--per_slice", "4")
    first = rows(index)
    run(index, "--slices", "eyeglasses", "--per_slice", "4")
    assert rows(index) == first
    run(index, "--slices", "eyeglasses", "--per_slice", "4", "--seed", "1")
    assert rows(index) != first


def test_groups_come_from_columns_by_value_or_by_range(index):
    run(index, "--group", "gender", "--group", "age:20,40,70", "--per_slice", "3")
    found = defaultdict(set)
    for row in rows(index):
        found[row["slice"]].add((row["gender"], int(row["age"]) < 40))
    assert {gender for gender, _ in found["gender_f"]} == {"f"}
    assert {young for _, young in found["age_20_40"]} == {True}
    assert {young for _, young in found["age_40_70"]} == {False}


def test_a_photo_whose_only_others_look_the_same_is_not_taken(index):
    copy = imread(index.parent / "p01/0.png")
    for number in (1, 2, 3):
        imwrite(index.parent / f"p01/{number}.png", copy)
    run(index, "--slices", "eyeglasses", "--per_slice", "7", "--max_per_person", "1")
    assert "p01" not in {row["identity"] for row in rows(index)}


class TurningDetector:
    """Sees a face whose nose says the yaw: far to the right on bright pictures."""

    def __init__(self, *arguments: object, **options: object) -> None:
        pass

    def detect(self, image: Image) -> list[Face]:
        landmarks = FFHQ_512 / 512 * len(image)
        landmarks[2, 0] += 20 if image.mean() > 127 else 0
        return [Face(np.array([0, 0, len(image), len(image)], np.float32), 0.9, landmarks.astype(np.float32))]


def test_an_estimated_yaw_is_called_estimated(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(curate_challenge_set, "ScrfdDetector", TurningDetector)
    monkeypatch.setattr(curate_challenge_set, "sha256_of", lambda path: "0" * 64)
    people = []
    for person in range(6):
        for number in range(3):
            dark = toy_photo(person, number, 60.0) // 2 + (120 if person % 2 else 0)
            imwrite(tmp_path / f"faces/{person}_{number}.png", dark.astype(np.uint8))
            people.append((f"{person}_{number}.png", f"p{person}", "test"))
    index = write_index(tmp_path / "faces/index.csv", people)
    with caplog.at_level(logging.INFO):
        run(index, "--slices", "yaw", "--yaw_bins", "0", "30", "90", "--detector", "made.onnx", "--per_slice", "3")
    chosen = [row for row in rows(index) if row["slice"] != "reference"]
    assert {row["yaw_source"] for row in chosen} == {"estimated from five landmarks"}
    assert {int(row["identity"][1:]) % 2 for row in chosen if row["slice"] == "yaw_30_90"} == {1}
    assert "estimated from five landmarks" in caplog.text


def test_who_can_serve_few_slices_is_taken_first():
    slices = {"hat": [0, 1], "glasses": [0, 1, 2, 3]}
    choice = choose_balanced(slices, ["a", "b", "c", "d"], 2, 1, np.random.default_rng(0))
    assert choice.chosen == {"hat": choice.chosen["hat"], "glasses": choice.chosen["glasses"]}
    assert sorted(choice.chosen["hat"]) == [0, 1]
    assert sorted(choice.chosen["glasses"]) == [2, 3]


def test_yaw_bins_hold_both_sides_and_no_unknown():
    assert yaw_slices([-20, 3, float("nan"), 15, 29.9, 30], [0, 15, 30]) == {
        "yaw_00_15": [1],
        "yaw_15_30": [0, 3, 4],
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --slices or --group"),
        (["--slices", "earrings"], "slice earrings needs a column earrings or wearing_earrings"),
        (["--slices", "hat", "--per_slice", "40"], "too few photos for hat: .* to be had: hat 12"),
        (["--group", "ethnicity"], "no column ethnicity.*never guessed"),
        (["--group", "gender:1,2"], "index.csv:2: gender is 'f', expected a number"),
        (["--group", "age:9,1"], "rising edges"),
        (["--slices", "yaw", "--yaw_bins", "30", "15"], "rising edges"),
        (["--slices", "hat", "--splits", "val"], "no photo in split val"),
        (["--slices", "hat", "--max_per_person", "0"], "--max_per_person 0"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(index, options, message):
    with pytest.raises(UserError, match=message):
        run(index, *options)


def test_yaw_without_column_and_detector_names_the_way_out(tmp_path):
    people = write_people(tmp_path / "faces", [2, 2], noise=60.0)
    index = write_index(tmp_path / "faces/index.csv", [(*row, "test") for row in people])
    with pytest.raises(UserError, match="no column yaw"):
        run(index, "--slices", "yaw")


def test_a_cell_that_is_neither_yes_nor_no_has_its_line(index):
    text = index.read_text().splitlines()
    text[5] = text[5].replace(",0,", ",maybe,", 1).replace(",1,", ",maybe,", 1)
    index.write_text("\n".join(text) + "\n")
    with pytest.raises(UserError, match=":6: eyeglasses is 'maybe'"):
        run(index, "--slices", "eyeglasses", "--per_slice", "2")
