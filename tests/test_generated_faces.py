"""Generated faces: the same for ever, framed as the template says; and the script that fills a folder with them."""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import _root
import cv2
import make_generated_faces as script
import numpy as np
import pytest
from _prepare import split_names

from basicsr.data.face_geometry import TEMPLATE
from basicsr.data.face_traits import Photo
from basicsr.data.generated_faces import person_at, photo_at, render, render_with_landmarks
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import imread

SEED = 5
CALM = Photo(ambient=0.6)  # frontal, neutral, no noise


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "index.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def make(folder: Path, *options: str) -> list[dict[str, str]]:
    common = ["--out", str(folder), "--size", "32", "--workers", "1", "--seed", str(SEED)]
    assert script.main([*common, *options]) == 0
    return rows_of(folder)


def test_a_picture_is_a_function_of_seed_person_and_photo_alone():
    first = render(person_at(SEED, 3), photo_at(SEED, 3, 1), 64)
    render(person_at(SEED, 4), photo_at(SEED, 4, 0), 64)
    np.testing.assert_array_equal(first, render(person_at(SEED, 3), photo_at(SEED, 3, 1), 64))


@pytest.mark.parametrize("size", [48, 64, 100, 512])
def test_a_picture_is_uint8_bgr_of_the_size_asked_for_and_uses_the_range(size):
    picture = render(person_at(SEED, 0), photo_at(SEED, 0, 0), size)
    assert picture.dtype == np.uint8
    assert picture.shape == (size, size, 3)
    assert np.ptp(picture) > 100


def test_people_and_their_photos_draw_from_streams_of_their_own():
    assert person_at(SEED, 0) != person_at(SEED, 1)
    assert photo_at(SEED, 0, 0) != photo_at(SEED, 0, 1)
    assert photo_at(SEED, 0, 0) != photo_at(SEED, 1, 0)
    assert person_at(SEED, 0) != person_at(SEED + 1, 0)


def test_photos_of_one_person_differ_in_their_pixels():
    pictures = [render(person_at(SEED, 0), photo_at(SEED, 0, k), 64).astype(float) for k in range(3)]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(pictures[first] - pictures[second]).mean() > 3


def test_landmarks_lie_on_the_ffhq_template_as_an_aligner_would_put_them():
    wanted = (TEMPLATE + 0.5) * (64 / 512) - 0.5
    errors = []
    for number in range(30):
        landmarks = render_with_landmarks(person_at(SEED, number), photo_at(SEED, number, 0), 64)[1]
        errors.append(np.linalg.norm(landmarks - wanted, axis=1))
    assert np.mean(errors) < 1.5  # px of 64: traits and head turn are what a similarity cannot undo
    assert np.max(np.mean(errors, axis=1)) < 2.5


def test_a_neutral_frontal_photo_has_landmarks_that_mirror_each_other():
    _, landmarks = render_with_landmarks(person_at(SEED, 1), CALM, 512)
    left_eye, right_eye, nose, left_mouth, right_mouth = landmarks
    middle = nose[0]
    assert left_eye[0] + right_eye[0] == pytest.approx(
        2 * middle, abs=1.0
    )  # the template itself is not quite symmetric
    assert left_mouth[0] + right_mouth[0] == pytest.approx(2 * middle, abs=1.0)


def test_the_pupils_are_dark_where_the_landmarks_say_the_eyes_are():
    person = replace(person_at(SEED, 2), masculinity=0.2, eye_height=14.0, lid_dark=0.0)
    picture, landmarks = render_with_landmarks(person, replace(CALM, eye_closing=-0.1), 512)
    gray = picture.mean(axis=2)
    for x, y in np.rint(landmarks[:2]).astype(int):
        pupil = gray[y - 3 : y + 2, x - 2 : x + 3].mean()
        white = gray[y - 6 : y + 6, x - 24 : x + 24].max()
        assert pupil < 0.5 * white


def test_turning_the_head_moves_the_nose_against_the_eyes():
    person = person_at(SEED, 1)
    offsets = []
    for yaw in (-15.0, 0.0, 15.0):
        landmarks = render_with_landmarks(person, replace(CALM, yaw=yaw), 512)[1]
        offsets.append(landmarks[2, 0] - landmarks[:2, 0].mean())
    assert offsets[0] < offsets[1] - 4
    assert offsets[2] > offsets[1] + 4


def test_a_large_rendering_reduced_equals_the_small_one():
    person, photo = person_at(SEED, 6), replace(photo_at(SEED, 6, 0), noise_sigma=0.0)
    small = render(person, photo, 64).astype(float)
    for size in (128, 512):
        reduced = cv2.resize(render(person, photo, size), (64, 64), interpolation=cv2.INTER_AREA).astype(float)
        assert np.abs(reduced - small).mean() < 1.0  # of 255: only edges of a pixel's width differ


@pytest.mark.parametrize(
    ("trait", "value"),
    [("iris_hue", 0.9), ("brow_arch", 14.0), ("lip_lower", 20.0), ("nose_width", 34.0), ("moles", ((40, 300, 6),))],
)
def test_every_fine_trait_shows_inside_the_recogniser_crop(trait, value):
    person = replace(
        person_at(SEED, 8), moles=(), iris_hue=0.0, brow_arch=0.0, lip_lower=9.0, nose_width=22.0, melanin=0.2
    )
    window = slice(61, 445), slice(64, 448)
    before = render(person, CALM, 512)[window].astype(float)
    after = render(replace(person, **{trait: value}), CALM, 512)[window].astype(float)
    assert np.abs(after - before).max() > 30


def test_a_small_step_in_trait_space_is_a_small_step_in_pixels():
    person = person_at(SEED, 9)
    base = render(person, CALM, 64).astype(float)
    moved = render(replace(person, brow_arch=person.brow_arch + 0.05, nose_width=person.nose_width + 0.05), CALM, 64)
    assert np.abs(moved - base).mean() < 0.1


def test_the_index_lists_every_picture_with_pose_and_accessories(tmp_path):
    rows = make(tmp_path, "--people", "4", "--photos", "2", "--splits", "train=2,val=1,test=1")
    assert tuple(rows[0]) == script.COLUMNS
    assert len(rows) == 8
    for row in rows:
        assert imread(tmp_path / row["path"]).shape == (32, 32, 3)
        number, photo = int(row["identity"][-6:]), int(row["path"][-6:-4])
        assert float(row["yaw"]) == pytest.approx(photo_at(SEED, number, photo).yaw, abs=0.051)
        assert row["eyeglasses"] == str(int(photo_at(SEED, number, photo).glasses > 0))


def test_splits_share_no_identity(tmp_path):
    rows = make(tmp_path, "--people", "10", "--photos", "1", "--splits", "train=.6,val=.2,test=.2")
    people = {split: {row["identity"] for row in rows if row["split"] == split} for split in ("train", "val", "test")}
    assert [len(people[split]) for split in ("train", "val", "test")] == [6, 2, 2]
    assert len(set.union(*people.values())) == 10


def test_another_offset_gives_other_people(tmp_path):
    first = make(tmp_path / "a", "--people", "3", "--photos", "1")
    second = make(tmp_path / "b", "--people", "3", "--photos", "1", "--offset", "3")
    assert not {row["identity"] for row in first} & {row["identity"] for row in second}
    contents = {
        (tmp_path / folder / row["path"]).read_bytes() for folder, rows in (("a", first), ("b", second)) for row in rows
    }
    assert len(contents) == 6


def test_resuming_keeps_whole_pictures_and_redraws_broken_ones_byte_for_byte(tmp_path):
    rows = make(tmp_path, "--people", "3", "--photos", "2")
    files = [tmp_path / row["path"] for row in rows]
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}
    files[0].unlink()
    files[1].write_bytes(before[files[1]][0][:40])
    make(tmp_path, "--people", "3", "--photos", "2")
    assert all(file.read_bytes() == before[file][0] for file in files)
    assert all(file.stat().st_mtime_ns == before[file][1] for file in files[2:])


@pytest.mark.slow
def test_two_workers_draw_the_same_files_as_one(tmp_path):
    one = make(tmp_path / "one", "--people", "3", "--photos", "1")
    two = make(tmp_path / "two", "--people", "3", "--photos", "1", "--workers", "2")
    assert one == two
    for row in one:
        assert (tmp_path / "one" / row["path"]).read_bytes() == (tmp_path / "two" / row["path"]).read_bytes()


def test_a_folder_made_with_other_settings_is_refused(tmp_path):
    make(tmp_path, "--people", "3", "--photos", "1")
    with pytest.raises(UserError, match="was made with"):
        script.main(["--out", str(tmp_path), "--people", "3", "--photos", "1", "--size", "64", "--workers", "1"])


@pytest.mark.parametrize(
    "splits",
    ["train", "train=a", "train=.5,val=.2", "train=3,val=2", "train=.5,train=.5", "=1", "a=.2,b=.2,c=.2,d=.2,e=.2"],
)
def test_splits_that_do_not_add_up_are_one_line_errors(splits):
    with pytest.raises(UserError, match="--splits"):
        split_names(splits, 4)


@pytest.mark.parametrize("options", [["--people", "0"], ["--size", "7"], ["--offset", "-1"], ["--workers", "0"]])
def test_numbers_that_cannot_be_are_named(options, tmp_path):
    with pytest.raises(UserError, match=options[0]):
        script.main(["--out", str(tmp_path / "x"), *options])


def test_the_repository_root_is_first_on_the_path(monkeypatch):
    monkeypatch.setattr(sys, "path", ["elsewhere", str(_root.ROOT)])
    _root.put_root_first()
    assert sys.path == [str(_root.ROOT), "elsewhere"]


def test_an_installed_basicsr_is_refused_in_one_line_that_names_both(tmp_path):
    info = tmp_path / "basicsr-1.4.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: basicsr\nVersion: 1.4.2\n", encoding="utf-8")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(_root.ROOT / 'scripts')!r}]; import _root"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    for part in (str(tmp_path / "basicsr"), str(_root.ROOT / "basicsr"), "pip uninstall basicsr"):
        assert part in done.stderr
