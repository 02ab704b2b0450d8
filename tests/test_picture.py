"""Photos keep what they came with: profile, transparency, gray, orientation; written whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from bad_input import GOOD, PHOTO
from PIL import Image as PillowImage
from PIL import ImageCms

from basicsr.utils.errors import ImageFileError
from basicsr.utils.picture import Picture, read_picture, shows_no_colour, write_picture

LOSSLESS = ("plain.png", "plain.bmp", "plain.tif", "sixteen.png", "sixteen.tiff", "alpha.png", "UPPER.PNG")


def read(tmp_path: Path, name: str) -> Picture:
    (tmp_path / name).write_bytes(GOOD[name]())
    return read_picture(tmp_path / name)


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_files_have_the_pixels_of_the_photo(tmp_path: Path, name: str) -> None:
    assert np.abs(read(tmp_path, name).image.astype(int) - PHOTO).max() <= (1 if "sixteen" in name else 0)


@pytest.mark.parametrize("name", ["plain.jpg", "plain.webp", "cmyk.jpg", "profile.jpg", "progressive.jpg"])
def test_lossy_files_look_like_the_photo(tmp_path: Path, name: str) -> None:
    difference = np.abs(read(tmp_path, name).image.astype(int) - PHOTO)
    assert difference.mean() < 25  # noise that JPEG smooths; swapped or inverted colours give 100 and more
    assert difference[36:60, 36:60].mean() < 4


def test_a_turned_photo_stands_upright(tmp_path: Path) -> None:
    upright = np.rot90(PHOTO, -1)
    assert np.abs(read(tmp_path, "turned.jpg").image.astype(int) - upright)[40:60, 70:90].mean() < 5


def test_transparency_is_kept_where_the_format_has_it(tmp_path: Path) -> None:
    picture = read(tmp_path, "alpha.png")
    assert picture.alpha is not None
    assert (picture.alpha[0, 0], picture.alpha[-1, 0]) == (40, 255)
    for name, kept in (("a.png", True), ("a.webp", True), ("a.tif", True), ("a.jpg", False), ("a.bmp", False)):
        write_picture(tmp_path / name, picture)
        again = read_picture(tmp_path / name)
        assert (again.alpha is not None) == kept, name
        if again.alpha is not None:
            np.testing.assert_array_equal(again.alpha, picture.alpha)
    assert read(tmp_path, "plain.png").alpha is None


def test_a_profile_goes_along_and_that_of_other_colours_does_not(tmp_path: Path) -> None:
    picture = read(tmp_path, "profile.jpg")
    assert picture.icc is not None
    for name in ("a.png", "a.jpg", "a.webp", "a.tif"):
        write_picture(tmp_path / name, picture)
        assert read_picture(tmp_path / name).icc == picture.icc, name
    write_picture(tmp_path / "gray.png", picture._replace(is_gray=True))
    assert read_picture(tmp_path / "gray.png").icc is None
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    write_picture(tmp_path / "b.png", picture._replace(icc=lab))
    assert read_picture(tmp_path / "b.png").icc is None


def test_gray_is_told_from_sepia_and_written_with_one_channel(tmp_path: Path) -> None:
    for name in ("gray.png", "gray.jpg", "gray_sixteen.png", "gray_alpha.png"):
        assert read(tmp_path, name).is_gray, name
    assert not read(tmp_path, "plain.png").is_gray
    gray = PHOTO[..., [1, 1, 1]]
    assert shows_no_colour(gray)
    assert not shows_no_colour(np.clip(gray.astype(int) + [-20, 0, 20], 0, 255).astype(np.uint8))
    write_picture(tmp_path / "a.png", Picture(gray, is_gray=True))
    with PillowImage.open(io.BytesIO((tmp_path / "a.png").read_bytes())) as written:
        assert written.mode == "L"


def test_quality_makes_a_jpeg_smaller_and_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    for quality in (20, 95):
        write_picture(tmp_path / f"{quality}.jpg", Picture(PHOTO), quality)
    assert (tmp_path / "20.jpg").stat().st_size < (tmp_path / "95.jpg").stat().st_size / 2
    (tmp_path / "file").write_text("")
    for path, says in ((tmp_path / "file/a.png", "cannot be written"), (tmp_path / "a.gif", r"as '\.gif'; known are")):
        with pytest.raises(ImageFileError, match=says):
            write_picture(path, Picture(PHOTO))
    assert not list(tmp_path.glob(".*tmp"))
