"""From folders of people to an index: splits by person, aligned or not, and what is wrong with a folder."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import prepare_folder
import pytest
from test_prepare_lfw import CornerDetector

from basicsr.data.face_index import FaceIndex
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import imread, imwrite

ROOT = Path(__file__).resolve().parent.parent
NUM_PEOPLE = 10


@pytest.fixture
def faces(tmp_path: Path, rng: np.random.Generator) -> Path:
    for person in range(NUM_PEOPLE):
        for photo in range(1 + person % 3):
            imwrite(tmp_path / f"in/p{person}/ph {photo}.png", rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    return tmp_path / "in"


def run(source: Path, out: Path, *options: str) -> int:
    return prepare_folder.main(["--source", str(source), "--out", str(out), "--aligned", "--workers", "1", *options])


def problems(out: Path) -> set[tuple[str, str]]:
    with (out / "problems.csv").open(newline="", encoding="utf-8") as file:
        return {(row["kind"], Path(row["place"]).name) for row in csv.DictReader(file)}


def people_of(out: Path) -> dict[str, set[str]]:
    people = defaultdict(set)
    for row in FaceIndex.read(out / "index.csv").rows:
        people[row.split].add(row.identity)
    return people


def test_the_index_names_the_originals_and_nobody_is_in_two_splits(faces: Path, tmp_path: Path) -> None:
    assert run(faces, tmp_path / "out") == 0
    index = FaceIndex.read(tmp_path / "out/index.csv")
    assert {path.resolve() for path in index.paths} == set(faces.rglob("*.png"))
    assert {split: len(people) for split, people in people_of(tmp_path / "out").items()} == {
        "train": 8,
        "val": 1,
        "test": 1,
    }


def test_splits_are_shares_or_numbers_and_depend_on_the_seed_alone(faces: Path, tmp_path: Path) -> None:
    assert run(faces, tmp_path / "a", "--splits", "train=5,test=5") == 0
    assert run(faces, tmp_path / "b", "--splits", "train=.5,test=.5") == 0
    assert run(faces, tmp_path / "c", "--splits", "train=.5,test=.5", "--seed", "1") == 0
    assert (tmp_path / "a/index.csv").read_text() == (tmp_path / "b/index.csv").read_text()
    assert people_of(tmp_path / "a") != people_of(tmp_path / "c")
    with pytest.raises(UserError, match=r"--splits train=3,val=3: shares must add up"):
        run(faces, tmp_path / "a", "--splits", "train=3,val=3")


def test_with_a_size_faces_are_copied_and_running_again_makes_what_is_not_whole(faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(faces, out, "--size", "16", "--workers", "2") == 0
    index = (out / "index.csv").read_text()
    copies = {path: path.read_bytes() for path in FaceIndex.read(out / "index.csv").paths}
    assert all(imread(path).shape == (16, 16, 3) for path in copies)
    first, second, kept = list(copies)[:3]
    first.write_bytes(copies[first][:30])
    second.unlink()
    before = kept.stat().st_mtime_ns
    assert run(faces, out, "--size", "16") == 0
    assert {path: path.read_bytes() for path in copies} == copies
    assert kept.stat().st_mtime_ns == before
    assert (out / "index.csv").read_text() == index
    with pytest.raises(UserError, match="was made with"):
        run(faces, out, "--size", "32")


def test_a_line_for_each_fault_and_the_rest_goes_on(
    faces: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (faces / "nobody").mkdir()
    (faces / "p1/ph 0.png").write_bytes((faces / "p1/ph 0.png").read_bytes()[:60])
    imwrite(faces / "p2/wide.png", np.zeros((20, 30, 3), np.uint8))
    (faces / "p3/notes.txt").write_text("no picture")
    assert run(faces, tmp_path / "out", "--min_photos", "2", "--splits", "train=.5,val=.5") == 1
    found = problems(tmp_path / "out")
    assert {("person without a photo", "nobody"), ("unusable", "ph 0.png"), ("unusable", "wide.png")} <= found
    assert {("person with too few photos", name) for name in ("p0", "p1", "p3", "p6", "p9")} <= found
    assert len(found) == 8
    assert "30x20 px, expected a square" in caplog.text
    assert set.union(*people_of(tmp_path / "out").values()) == {"p2", "p4", "p5", "p7", "p8"}


def test_photos_that_are_not_aligned_go_through_the_detector(faces: Path, tmp_path: Path) -> None:
    (faces / "p1/ph 0.png").write_bytes(b"no picture")
    args = prepare_folder.parse_args(
        ["--source", str(faces), "--out", str(tmp_path / "out"), "--detector", "unused.onnx", "--size", "16"]
    )
    detector = CornerDetector()
    assert prepare_folder.prepare(args, detector) == 1
    index = FaceIndex.read(tmp_path / "out/index.csv")
    assert len(index) == detector.calls == len(list(faces.rglob("*.png"))) - 1
    assert all(imread(path).shape == (16, 16, 3) for path in index.paths)
    assert problems(tmp_path / "out") == {("unreadable", "ph 0.png")}


def test_what_cannot_be_is_said_in_one_line(faces: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--detector is missing"):
        prepare_folder.main(["--source", str(faces), "--out", str(tmp_path / "out")])
    with pytest.raises(UserError, match="no such folder"):
        run(tmp_path / "absent", tmp_path / "out")
    with pytest.raises(UserError, match="nobody has 9 photos"):
        run(faces, tmp_path / "out", "--min_photos", "9")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/index.csv").write_text("path,identity,split\n")
    with pytest.raises(UserError, match=r"mine: holds other files already \(index.csv\)"):
        run(faces, tmp_path / "mine")


@pytest.mark.slow
def test_after_a_kill_the_same_command_completes_with_an_equal_result(tmp_path: Path, rng: np.random.Generator) -> None:
    for number in range(300):
        imwrite(tmp_path / f"in/p{number // 3}/{number}.png", rng.integers(0, 256, (256, 256, 3), dtype=np.uint8))
    command = [sys.executable, "scripts/prepare_folder.py", "--source", str(tmp_path / "in"), "--aligned"]
    command += ["--size", "200", "--workers", "1", "--out"]
    running = subprocess.Popen([*command, str(tmp_path / "out")], cwd=ROOT, stderr=subprocess.DEVNULL)
    while running.poll() is None and len(list((tmp_path / "out").rglob("*.png"))) < 20:
        time.sleep(0.02)
    running.kill()
    assert running.wait() != 0
    assert not (tmp_path / "out/index.csv").exists()
    for name in ("out", "straight"):
        subprocess.run([*command, str(tmp_path / name)], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    files = sorted(path.relative_to(tmp_path / "straight") for path in (tmp_path / "straight").rglob("*.*"))
    assert len(files) == 303
    assert all((tmp_path / "out" / file).read_bytes() == (tmp_path / "straight" / file).read_bytes() for file in files)


def test_photos_of_one_stem_have_crops_of_their_own_and_names_that_are_no_utf8_are_a_line(
    faces: Path, tmp_path: Path
) -> None:
    imwrite(faces / "p1/same.png", np.zeros((20, 20, 3), np.uint8))
    imwrite(faces / "p1/same.JPG", np.full((20, 20, 3), 255, np.uint8))
    try:
        (faces / "p1" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    except OSError:
        pytest.skip("this disk takes UTF-8 names alone")
    assert run(faces, tmp_path / "out", "--size", "16") == 1
    assert problems(tmp_path / "out") == {("file name that is not UTF-8", "caf\\udce9.png")}
    assert imread(tmp_path / "out/p1/same.png.png").max() == 0
    assert imread(tmp_path / "out/p1/same.JPG.png").min() == 255


def test_a_folder_without_pictures_is_a_person_without_a_photo(faces: Path, tmp_path: Path) -> None:
    (faces / "nobody").mkdir()
    (faces / "nobody/notes.txt").write_text("no picture")
    assert run(faces, tmp_path / "out") == 0
    assert problems(tmp_path / "out") == {("person without a photo", "nobody")}
