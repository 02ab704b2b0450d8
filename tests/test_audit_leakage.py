"""The audit of an index, of two of them, of folders: what it finds, and how it leaves."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import audit_leakage
import pytest
from people_toys import toy_photo, toy_recognizer, write_index, write_people

from basicsr.data.augment import flip
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import imread, imwrite

SPLITS = {"p00": "train", "p01": "train", "p02": "train", "p03": "test", "p04": "test"}


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_recognizer(tmp_path_factory.mktemp("rec") / "rec.safetensors")


class Faces:
    """A clean index of five people, to be spoilt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = [(name, who, SPLITS[who]) for name, who in write_people(folder, [3, 2, 2, 2, 2])]
        self.index = folder / "index.csv"
        write_index(self.index, self.rows)

    def add(self, name: str, image: object, identity: str, split: str) -> None:
        imwrite(self.folder / name, image)  # type: ignore[arg-type]
        self.rows.append((name, identity, split))
        write_index(self.index, self.rows)


@pytest.fixture
def faces(tmp_path: Path) -> Faces:
    return Faces(tmp_path / "faces")


def run(faces: Faces, recognizer: Path | None, *options: str) -> int:
    command = ["--test", str(faces.index), "--out", str(faces.folder.parent / "audit")]
    if recognizer is not None:
        command += ["--recognizer", str(recognizer), "--threshold", ".75", "--device", "cpu"]
    return audit_leakage.main([*command, *options])


def leaks_of(faces: Faces, name: str = "leaks.csv") -> list[dict[str, str]]:
    with (faces.folder.parent / "audit" / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_clean_index_leaves_with_0_and_an_empty_list(faces, recognizer, caplog):
    with caplog.at_level(logging.INFO):
        assert run(faces, recognizer) == 0
    assert leaks_of(faces) == []
    assert "no leaks" in caplog.text


def test_a_person_under_another_name_is_found_by_the_face(faces, recognizer):
    faces.add("other.png", toy_photo(0, 7), "Other", "test")
    assert run(faces, recognizer) == 1
    leaks = [leak for leak in leaks_of(faces) if leak["kind"] == "face"]
    assert len(leaks) == 3
    assert {leak["train_identity"] for leak in leaks} == {"p00"}
    assert all(leak["test"] == "../faces/other.png" for leak in leaks)
    assert float(leaks[0]["score"]) > 0.75
    assert imread(faces.folder.parent / "audit/leaks_face.png").std() > 5


def test_without_a_recogniser_the_audit_says_what_it_leaves_out(faces, caplog):
    faces.add("other.png", toy_photo(0, 7, 60.0), "Other", "test")
    assert run(faces, None) == 0
    assert "no --recognizer" in caplog.text


def test_a_mirrored_copy_is_found_by_its_hash(faces):
    faces.add("mirrored.png", flip(toy_photo(1, 0)), "Other", "test")
    assert run(faces, None) == 1
    assert leaks_of(faces)[0]["kind"] == "mirrored photo"


def test_a_person_in_both_splits_is_found_by_name(faces):
    faces.add("again.png", toy_photo(9, 0), "p01", "test")
    assert run(faces, None) == 1
    (leak,) = leaks_of(faces)
    assert (leak["kind"], leak["score"], leak["test_identity"]) == ("identity", "2", "p01")


def test_the_clean_index_has_no_leak_any_more(faces, recognizer):
    faces.add("other.png", toy_photo(0, 7), "Other", "test")
    clean = faces.folder.parent / "clean/train.csv"
    assert run(faces, recognizer, "--clean", str(clean)) == 1
    again = ["--train", str(clean), "--test_splits", "test"]
    assert run(faces, recognizer, *again) == 0
    with clean.open(newline="", encoding="utf-8") as file:
        assert {row["identity"] for row in csv.DictReader(file)} == {"p01", "p02"}


def test_accepted_pairs_are_no_leaks(faces, recognizer, caplog):
    faces.add("other.png", toy_photo(0, 7), "Other", "test")
    run(faces, recognizer)
    looked_at = faces.folder.parent / "audit/looked_at.csv"
    looked_at.write_text((faces.folder.parent / "audit/leaks.csv").read_text())
    num_leaks = len(leaks_of(faces))
    with caplog.at_level(logging.INFO):
        assert run(faces, recognizer, "--accepted", str(looked_at)) == 0
    assert f"{num_leaks} accepted" in caplog.text
    assert leaks_of(faces) == []


def test_two_folders_are_compared(faces, tmp_path, recognizer):
    imwrite(tmp_path / "test_folder/x.png", toy_photo(2, 5))
    command = ["--test", str(tmp_path / "test_folder"), "--train", str(faces.folder), "--out", str(tmp_path / "audit")]
    assert audit_leakage.main([*command, "--recognizer", str(recognizer), "--threshold", ".75", "--device", "cpu"]) == 1
    assert {Path(leak["train"]).parent.name for leak in leaks_of(faces) if leak["kind"] == "face"} == {"p02"}


def test_flaws_of_the_labels_are_listed_and_are_no_leak(faces, recognizer, caplog):
    faces.add("p00/copy.png", toy_photo(0, 0), "p00", "train")
    faces.add("p01/wrong.png", toy_photo(17, 0), "p01", "train")
    with caplog.at_level(logging.INFO):
        assert run(faces, recognizer, "--flaws", "--duplicate", ".999", "--mislabelled", ".3") == 0
    flaws = leaks_of(faces, "flaws.csv")
    assert ("near duplicate", "../faces/p00/copy.png") in {(flaw["kind"], flaw["other"]) for flaw in flaws}
    assert [flaw["photo"] for flaw in flaws if flaw["kind"] == "mislabelled"] == ["../faces/p01/wrong.png"]
    assert "1 mislabelled" in caplog.text


def test_an_unreadable_photo_is_not_passed_for_clean(faces, recognizer, caplog):
    (faces.folder / "p03/0.png").write_bytes(b"")
    assert run(faces, recognizer) == 1
    assert leaks_of(faces) == []
    assert "1 photos could not be read" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--test_splits", "train"], "cannot be test and training at once"),
        (["--test_splits", "tset"], "no photo in split tset; there is test, train"),
        (["--max_bits", "200"], "--max_bits 200: expected 0 to 127"),
        (["--flaws"], "--flaws needs --recognizer"),
        (["--accepted", "absent.csv"], "absent.csv"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(faces, options, message):
    with pytest.raises(UserError, match=message):
        run(faces, None, *options)


def test_near_duplicates_become_groups_that_the_data_set_keeps_apart(faces, recognizer, tmp_path):
    twin = imread(faces.folder / faces.rows[0][0])
    imwrite(faces.folder / "twin.png", twin)
    faces.rows.append(("twin.png", "p00", "train"))
    write_index(faces.index, faces.rows)
    grouped = faces.folder / "grouped.csv"
    run(faces, recognizer, "--group_duplicates", str(grouped), "--group_cosine", ".999")
    with grouped.open(newline="", encoding="utf-8") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert {path for path, row in rows.items() if row["duplicate_group"]} == {faces.rows[0][0], "twin.png"}
    assert rows["twin.png"]["duplicate_group"] == rows[faces.rows[0][0]]["duplicate_group"] != ""
    assert {path: row["split"] for path, row in rows.items()} == {name: split for name, _, split in faces.rows}
