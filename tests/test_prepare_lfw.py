"""From folders of people to faces and an index: splits, resuming, and photos that fail."""

from __future__ import annotations

import csv
import logging
import tarfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import prepare_lfw
import pytest
from _lfw_lists import Pair, read_pairs, read_people
from _prepare import Problems

from basicsr.faces import FFHQ_512, Face
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import Image, imread, imwrite

DETECTOR = "detectors/scrfd_2.5g_bnkps.onnx"
PEOPLE = {f"Person_{number:02d}": 2 + number % 3 for number in range(12)} | {"Lone": 1}
BLANK = 7  # a photo of this gray value holds no face for the detector below


class CornerDetector:
    """Finds a face in the corner and one in the middle of every photo that is not blank."""

    def __init__(self) -> None:
        self.calls = 0

    def detect(self, image: Image) -> list[Face]:
        self.calls += 1
        if image.mean() == BLANK:
            return []
        side = image.shape[0]
        found: list[Face] = []
        for left, scale in ((0.0, 0.2), (0.25 * side, 0.5)):
            landmarks = (FFHQ_512 / 512 * side * scale + left).astype(np.float32)
            right = left + scale * side
            found.append(Face(np.array([left, left, right, right], np.float32), 0.9, landmarks))
        return found


@pytest.fixture
def photos(tmp_path: Path, rng: np.random.Generator) -> Path:
    for person, count in PEOPLE.items():
        for number in range(1, count + 1):
            image = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            imwrite(tmp_path / "lfw" / person / f"{person}_{number:04d}.png", image)
    return tmp_path / "lfw"


def run(source: Path, out: Path, detector: CornerDetector | None = None, *options: str) -> int:
    command = ["--source", str(source), "--out", str(out), "--detector", "unused.onnx", "--size", "16", *options]
    return prepare_lfw.prepare(prepare_lfw.parse_args(command), detector or CornerDetector())


def rows(out: Path, name: str = "index.csv") -> list[dict[str, str]]:
    with (out / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def people_of(out: Path) -> dict[str, set[str]]:
    splits: dict[str, set[str]] = defaultdict(set)
    for row in rows(out):
        splits[row["split"]].add(row["identity"])
    return splits


def test_every_photo_of_people_with_two_becomes_a_face_of_the_size(photos, tmp_path):
    assert run(photos, tmp_path / "out") == 0
    index = rows(tmp_path / "out")
    assert len(index) == sum(count for count in PEOPLE.values() if count > 1)
    assert all(imread(tmp_path / "out" / row["path"]).shape == (16, 16, 3) for row in index)
    assert index[0] == {"path": "Person_00/Person_00_0001.png", "identity": "Person_00", "split": index[0]["split"]}


def test_nobody_is_in_two_splits_and_the_shares_are_kept(photos, tmp_path):
    run(photos, tmp_path / "out", None, "--val_people", ".25", "--test_people", ".25")
    splits = people_of(tmp_path / "out")
    assert {name: len(people) for name, people in splits.items()} == {"train": 6, "val": 3, "test": 3}
    assert len(set.union(*splits.values())) == 12


def test_splits_depend_on_the_seed_alone(photos, tmp_path):
    run(photos, tmp_path / "a")
    run(photos, tmp_path / "b")
    run(photos, tmp_path / "c", None, "--seed", "1")
    assert (tmp_path / "a/index.csv").read_text() == (tmp_path / "b/index.csv").read_text()
    assert people_of(tmp_path / "a") != people_of(tmp_path / "c")


def test_an_archive_gives_what_its_folder_gives(photos, tmp_path):
    with tarfile.open(tmp_path / "lfw.tgz", "w:gz") as archive:
        archive.add(photos, "lfw-deepfunneled")
    run(photos, tmp_path / "a")
    run(tmp_path / "lfw.tgz", tmp_path / "b")
    assert (tmp_path / "a/index.csv").read_text() == (tmp_path / "b/index.csv").read_text()
    for row in rows(tmp_path / "a"):
        np.testing.assert_array_equal(imread(tmp_path / "a" / row["path"]), imread(tmp_path / "b" / row["path"]))


def test_of_several_faces_the_one_in_the_middle_is_taken(photos, tmp_path):
    image = np.zeros((40, 40, 3), np.uint8)
    image[10:30, 10:30] = 200  # where CornerDetector's second face is
    for number in (1, 2):
        imwrite(photos / "Person_00" / f"Person_00_{number:04d}.png", image)
    run(photos, tmp_path / "out")
    face = imread(tmp_path / "out/Person_00/Person_00_0001.png")
    assert face[4:12, 4:12].min() > 190


def test_running_again_keeps_what_is_whole_and_makes_what_is_not(photos, tmp_path):
    run(photos, tmp_path / "out")
    before = (tmp_path / "out/index.csv").read_text()
    cut = tmp_path / "out" / rows(tmp_path / "out")[0]["path"]
    cut.write_bytes(cut.read_bytes()[:40])
    (tmp_path / "out" / rows(tmp_path / "out")[5]["path"]).unlink()
    again = CornerDetector()
    run(photos, tmp_path / "out", again)
    assert again.calls == 2
    assert imread(cut).shape == (16, 16, 3)
    assert (tmp_path / "out/index.csv").read_text() == before


def test_photos_that_fail_are_counted_and_the_rest_goes_on(photos, tmp_path, caplog):
    (photos / "Person_01/Person_01_0001.png").write_bytes(b"no picture")
    imwrite(photos / "Person_02/Person_02_0001.png", np.full((40, 40, 3), BLANK, np.uint8))
    imwrite(photos / "Person_03/Person_03_0001.png", np.full((40, 40, 3), BLANK, np.uint8))  # leaves one photo
    with caplog.at_level(logging.INFO):
        assert run(photos, tmp_path / "out") == 1
    skipped = {row["photo"].rsplit("/")[-1]: row["reason"] for row in rows(tmp_path / "out", "skipped.csv")}
    assert skipped == {
        "Person_01_0001.png": "unreadable",
        "Person_02_0001.png": "no face found",
        "Person_03_0001.png": "no face found",
    }
    assert "2 without a face, 1 unreadable" in caplog.text
    assert "1 left out, their person has too few" in caplog.text
    assert "Person_03" not in {row["identity"] for row in rows(tmp_path / "out")}


def test_photos_without_a_face_alone_are_no_failure(photos, tmp_path):
    imwrite(photos / "Person_02/Person_02_0001.png", np.full((40, 40, 3), BLANK, np.uint8))
    assert run(photos, tmp_path / "out") == 0


def test_a_quick_run_takes_the_people_it_is_limited_to(photos, tmp_path):
    run(photos, tmp_path / "out", None, "--limit_people", "5", "--min_photos", "3")
    people = set.union(*people_of(tmp_path / "out").values())
    assert len(people) == 5
    assert all(PEOPLE[person] >= 3 for person in people)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "32"], "was made with"),
        (["--val_people", ".6", "--test_people", ".5"], "leave some for training"),
        (["--min_photos", "9"], "nobody has 9 photos"),
        (["--limit_people", "2"], "too few for three splits"),
        (["--workers", "0"], "at least 1"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(photos, tmp_path, options, message):
    run(photos, tmp_path / "out")
    with pytest.raises(UserError, match=message):
        run(photos, tmp_path / "out", None, *options)


def test_a_wrong_source_or_output_is_said_in_one_line(photos, tmp_path):
    with pytest.raises(UserError, match="no such folder or archive"):
        run(tmp_path / "absent.tar", tmp_path / "out")
    (tmp_path / "cut.tar").write_bytes(b"not an archive" * 100)
    with pytest.raises(UserError, match=r"^[^\n]*no whole tar archive[^\n]*$"):
        run(tmp_path / "cut.tar", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no photos in folders named after people"):
        run(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(UserError, match="holds other files"):
        run(photos, photos)


def test_two_photos_that_would_get_one_name_are_refused(photos, tmp_path):
    imwrite(photos / "more/Person_00/Person_00_0001.jpg", np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(UserError, match="would both become"):
        run(photos, tmp_path / "out")


@pytest.mark.slow
def test_real_photos_of_lfw_become_upright_faces(test_data: Path, tmp_path):
    if not (test_data / "lfw.tar").is_file() or not (test_data / DETECTOR).is_file():
        pytest.skip("real test data: LFW or the detector is absent")
    command = ["--source", str(test_data / "lfw.tar"), "--detector", str(test_data / DETECTOR)]
    out = tmp_path / "lfw"
    assert prepare_lfw.main([*command, "--out", str(out), "--limit_people", "6", "--min_photos", "3"]) == 0
    index = rows(out)
    assert len(index) >= 18
    assert rows(out, "skipped.csv") == []
    mean = np.mean([imread(out / row["path"]).astype(float) for row in index], axis=0).mean(2)
    eyes, cheeks = mean[28:32, [23, 40]].mean(), mean[40:44, [18, 45]].mean()  # FFHQ framing at 64 px
    assert eyes < cheeks


def lists(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / "list.txt"
    file.write_bytes("".join(f"{line}\r\n" for line in lines).encode())
    return file


def test_official_pairs_become_a_table_and_rows_of_absent_photos_are_counted(photos, tmp_path, caplog):
    pairs = lists(
        tmp_path,
        "2\t1",
        "Person_00\t1\t2",
        "Person_01\t1\tLone\t1",  # a person with one photo, who is not in the index
        "",
        "Person_02 3 4",  # blanks for tabs
        "Person_03,1,Nobody_Here,1",
        "Person_03\tone",
    )
    with caplog.at_level(logging.INFO):
        assert run(photos, tmp_path / "out", None, "--pairs", str(pairs)) == 0
    table = [tuple(row.values()) for row in rows(tmp_path / "out", "verification.csv")]
    assert table == [
        ("1", "1", "Person_00/Person_00_0001.png", "Person_00/Person_00_0002.png"),
        ("1", "0", "Person_01/Person_01_0001.png", "Lone/Lone_0001.png"),
        ("2", "1", "Person_02/Person_02_0003.png", "Person_02/Person_02_0004.png"),
    ]
    assert all((tmp_path / "out" / row[place]).is_file() for row in table for place in (2, 3))
    assert "Lone" not in {row["identity"] for row in rows(tmp_path / "out")}
    assert "3 pairs (2 of one person), 1 skipped" in caplog.text
    assert "list.txt:7: row of a list that cannot be read" in caplog.text


@pytest.mark.parametrize("header", [["1"], ["name,imagenum1,imagenum2,"], []])
def test_development_pairs_and_pairs_with_a_header_or_none_have_no_folds(tmp_path, header):
    file = lists(tmp_path, *header, "Ann\t1\t2", "Ann\t1\tBob\t2")
    found = read_pairs(file, Problems())
    assert found == [
        Pair("", True, ("Ann", "Ann_0001"), ("Ann", "Ann_0002")),
        Pair("", False, ("Ann", "Ann_0001"), ("Bob", "Bob_0002")),
    ]


def test_the_people_list_gives_folds_and_who_is_absent(photos, tmp_path):
    names = [f"{person}\t{count}" for person, count in PEOPLE.items() if person != "Lone"]
    people = lists(tmp_path, "2", "6", *names[:6], "8", *names[6:], "Absent_One\t3", "Person_00\tx", "Lone\t4")
    run(photos, tmp_path / "out", None, "--people", str(people))
    fold_of = {row["identity"]: row["fold"] for row in rows(tmp_path / "out")}
    assert fold_of == {f"Person_{number:02d}": "1" if number < 6 else "2" for number in range(12)}
    assert {(row["kind"], row["place"].rsplit("list.txt")[-1]) for row in rows(tmp_path / "out", "problems.csv")} == {
        ("person of the list who is absent", ": Absent_One"),
        ("person of the list with fewer photos here", ": Lone"),
        ("row of a list that cannot be read", ":17"),
    }


def test_lists_that_hold_nothing_are_one_line(tmp_path):
    with pytest.raises(UserError, match="no pairs; expected rows"):
        read_pairs(lists(tmp_path, "10\t300"), Problems())
    with pytest.raises(UserError, match="names nobody"):
        read_people(lists(tmp_path, "header"), Problems())
    with pytest.raises(UserError, match="cannot be read"):
        read_people(tmp_path / "absent.txt", Problems())


def test_the_gallery_has_three_different_photos_of_each_test_person_who_has_them(photos, tmp_path):
    twins = imread(photos / "Person_02/Person_02_0001.png")
    imwrite(photos / "Person_02/Person_02_0002.png", twins[:, ::-1].copy())  # four photos, two of them one
    imwrite(photos / "Person_01/Person_01_0003.png", imread(photos / "Person_01/Person_01_0001.png"))  # two that differ
    run(photos, tmp_path / "out", None, "--test_people", ".8")
    gallery = {row["identity"]: row for row in rows(tmp_path / "out", "gallery.csv")}
    tested = people_of(tmp_path / "out")["test"]
    able = {person for person, count in PEOPLE.items() if count >= 3 and person != "Person_01"} & tested
    assert set(gallery) == able
    assert len(able) > 3
    for person, row in gallery.items():
        numbers = [row[role].removeprefix(f"{person}/{person}_").removesuffix(".png") for role in ("lq", "ref", "gt")]
        assert numbers == (["0001", "0003", "0004"] if person == "Person_02" else ["0001", "0002", "0003"])
        assert row["restored"] == f"{person}_0001.png"
