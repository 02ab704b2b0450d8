"""Aligned crops of a folder: counts, resuming, several processes, what is skipped, and how the outside is filled."""

from __future__ import annotations

import csv
from pathlib import Path

import crop_align_face as tool
import cv2
import numpy as np
import pytest
from detector_graphs import write_scrfd

from basicsr.faces.align import BORDER_BGR, FFHQ_512, ffhq_matrix, share_outside
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import imread, imwrite

SIZE = 32


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Photos of 128 px: one face in a.png and b/a.jpg, two in two.png, none in none.png, and one that is broken."""
    folder = tmp_path / "photos"
    one = np.full((128, 128, 3), 20, np.uint8)
    two = one.copy()
    one[32:64, 32:64] = 255
    two[0:32, 0:32] = two[64:96, 64:96] = 255
    imwrite(folder / "a.png", one)
    imwrite(folder / "b/a.jpg", one)
    imwrite(folder / "two.png", two)
    imwrite(folder / "none.png", np.zeros((128, 128, 3), np.uint8))
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def run(photos: Path, *more: object, workers: int = 1) -> int:
    detector = photos.parent / "scrfd.onnx"
    if not detector.exists():
        write_scrfd(detector)
    fixed = ["--detector", detector, "--size", SIZE, "--detect_size", 128, "--workers", workers]
    return tool.main([str(a) for a in ["-i", photos, "-o", photos.parent / "out", *fixed, *more]])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_photo_gives_its_largest_face_and_what_gives_none_is_listed(photos: Path) -> None:
    assert run(photos) == 1
    out = photos.parent / "out"
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.png")) == ["a.png", "b/a.png", "two.png"]
    assert imread(out / "a.png").shape == (SIZE, SIZE, 3)
    assert len(rows(out / "faces.csv")) == 3
    skipped = {Path(row["photo"]).name: row["reason"] for row in rows(out / "skipped.csv")}
    assert skipped["none.png"] == tool.NO_FACE
    assert "no picture in a format" in skipped["broken.png"]


def test_all_faces_of_a_photo_are_numbered_from_left_to_right(photos: Path) -> None:
    run(photos, "--faces", "all")
    left = [float(row["left"]) for row in rows(photos.parent / "out/faces.csv") if "two_0" in row["path"]]
    assert left == sorted(left)
    assert len(left) == 2
    assert (photos.parent / "out/two_01.png").exists()


def test_a_second_run_makes_what_is_missing_and_other_settings_are_refused(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(photos)
    out = photos.parent / "out"
    (out / "a.png").unlink()
    with (out / "journal.jsonl").open("a") as file:
        file.write('{"photo": "cut o')
    made: list[str] = []
    crop = tool.Worker.crop

    def noted(self: tool.Worker, photo: tool.Photo) -> tool.Record:
        made.append(photo.path.name)
        return crop(self, photo)

    monkeypatch.setattr(tool.Worker, "crop", noted)
    assert run(photos) == 1
    assert sorted(made) == ["a.png", "broken.png", "none.png"]  # what had no face is tried again
    assert len(rows(out / "faces.csv")) == 3
    with pytest.raises(UserError, match="was made with"):
        run(photos, "--border", "reflect")


@pytest.mark.slow
def test_two_processes_make_what_one_makes(photos: Path) -> None:
    run(photos, workers=2)
    out = photos.parent / "out"
    several = {p.relative_to(out): imread(p) for p in out.rglob("*.png")}
    out.rename(photos.parent / "out2")
    run(photos)
    assert {p.relative_to(out) for p in out.rglob("*.png")} == set(several)
    for name, image in several.items():
        np.testing.assert_array_equal(imread(out / name), image)


def test_no_face_at_all_is_exit_code_2_and_no_photo_is_an_error(photos: Path, tmp_path: Path) -> None:
    for path in list(photos.rglob("*.*")):
        if path.name != "none.png":
            path.unlink()
    assert run(photos) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no pictures"):
        run(photos, "-i", tmp_path / "empty", "-o", tmp_path / "out2")
    with pytest.raises(UserError, match="--size 3"):
        run(photos, "--size", "3")


def test_the_share_outside_is_what_a_warped_white_photo_shows() -> None:
    for angle, shift in ((0.0, 0.0), (20.0, 60.0), (-35.0, 140.0)):
        turn = cv2.getRotationMatrix2D((256, 256), angle, 1.1)
        points = FFHQ_512 @ turn[:, :2].T + turn[:, 2] + shift
        matrix = ffhq_matrix(points, 256)
        seen = cv2.warpAffine(np.ones((512, 512), np.float32), matrix, (256, 256))
        assert share_outside(matrix, 256, (512, 512)) == pytest.approx(1 - seen.mean(), abs=0.01)


def test_the_outside_is_gray_or_repeats_the_edge(photos: Path) -> None:
    image = imread(photos / "two.png")
    points = FFHQ_512 / 512 * 64 - 20  # reaches beyond the top left corner
    for border, corner in (("gray", BORDER_BGR), ("edge", (255, 255, 255))):
        face = tool.warp_by(image, ffhq_matrix(points, SIZE), SIZE, border)  # type: ignore[arg-type]
        assert tuple(face[0, 0].tolist()) == corner
