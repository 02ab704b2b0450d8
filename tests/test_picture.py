"""Photos keep what they came with: profile, transparency, gray, orientation; written whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from bad_input import GOOD, PHOTO, SIXTEEN, pillow, saved
from cmyk_profile import cmyk_profile
from PIL import Image as PillowImage
from PIL import ImageCms

from basicsr.utils.deep_picture import to_eight
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


def channels(path: Path) -> str:
    with PillowImage.open(path) as written:
        return written.mode


def test_gray_with_a_profile_of_colours_keeps_it_and_three_channels(tmp_path: Path) -> None:
    rgb = read(tmp_path, "profile.jpg").icc
    assert rgb is not None
    gray = rgb[:16] + b"GRAY" + rgb[20:]
    photo = Picture(PHOTO[..., [1, 1, 1]], is_gray=True)
    for name in ("a.png", "a.jpg", "a.tif"):
        for icc, mode in ((rgb, "RGB"), (gray, "L"), (None, "L")):
            write_picture(tmp_path / name, photo._replace(icc=icc))
            assert (channels(tmp_path / name), read_picture(tmp_path / name).icc) == (mode, icc), name


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("is_gray", [False, True])
@pytest.mark.parametrize("has_alpha", [False, True])
def test_sixteen_bit_are_written_and_read_as_they_are_with_profile_and_transparency(
    tmp_path: Path, name: str, is_gray: bool, has_alpha: bool
) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (33, 41, 3), np.uint16)
    pixels = pixels[..., [1, 1, 1]] if is_gray else pixels
    alpha = np.full((33, 41), 255, np.uint8) if has_alpha else None
    if alpha is not None:
        alpha[3:9] = 77
    icc = read(tmp_path, "profile.jpg").icc
    write_picture(tmp_path / name, Picture(to_eight(pixels), alpha, icc, is_gray, pixels))
    again = read_picture(tmp_path / name, deep=True)
    np.testing.assert_array_equal(again.deep, pixels)
    assert (again.icc, again.is_gray) == (icc, is_gray)
    assert (again.alpha is None) == (alpha is None)
    if alpha is not None:
        np.testing.assert_array_equal(again.alpha, alpha)
    assert read_picture(tmp_path / name).deep is None


def test_sixteen_bit_become_eight_in_a_format_that_has_no_more(tmp_path: Path) -> None:
    for name in ("a.bmp", "a.webp", "a.jpg"):
        write_picture(tmp_path / name, Picture(to_eight(SIXTEEN), deep=SIXTEEN), quality=100)
        again = read_picture(tmp_path / name, deep=True)
        assert again.deep is None
        assert np.abs(again.image[36:60, 36:60].astype(int) - PHOTO[36:60, 36:60]).mean() < 4, name


def test_cmyk_is_brought_to_srgb_by_its_profile_which_does_not_go_along(tmp_path: Path) -> None:
    cyan = PillowImage.new("CMYK", (16, 16), (255, 0, 0, 0))
    reddish = cmyk_profile(lambda inks: (50.0, 60.0, 40.0) if inks[0] else (100.0 - 99 * inks[3], 0.0, 0.0))
    for name, kind in (("a.jpg", "JPEG"), ("a.tif", "TIFF")):
        (tmp_path / name).write_bytes(saved(cyan, kind))
        blue, _, red = read_picture(tmp_path / name).image.mean((0, 1))
        assert blue > 200 > 60 > red, "without a profile, cyan ink is cyan"
        (tmp_path / name).write_bytes(saved(cyan, kind, icc_profile=reddish))
        picture = read_picture(tmp_path / name)
        blue, _, red = picture.image.mean((0, 1))
        assert red > 150 > 100 > blue, "the profile says that this cyan ink is red"
        assert picture.icc is None


def test_a_cmyk_profile_that_is_broken_is_said_and_the_colours_are_those_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.jpg").write_bytes(saved(pillow().convert("CMYK"), "JPEG", icc_profile=b"no profile"))
    (tmp_path / "b.jpg").write_bytes(saved(pillow().convert("CMYK"), "JPEG"))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.jpg").image, read_picture(tmp_path / "b.jpg").image)
    assert "a.jpg: its CMYK profile cannot be used" in caplog.text
    assert "b.jpg" not in caplog.text


def test_a_file_of_several_pictures_gives_the_first_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    others = [PillowImage.new("RGB", pillow().size)] * 2
    (tmp_path / "scan.tif").write_bytes(saved(pillow(), "TIFF", save_all=True, append_images=others))
    np.testing.assert_array_equal(read_picture(tmp_path / "scan.tif").image, PHOTO)
    assert "scan.tif: 3 pictures in this file, the first is restored" in caplog.text


def test_quality_makes_a_jpeg_smaller_and_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    for quality in (20, 95):
        write_picture(tmp_path / f"{quality}.jpg", Picture(PHOTO), quality)
    assert (tmp_path / "20.jpg").stat().st_size < (tmp_path / "95.jpg").stat().st_size / 2
    (tmp_path / "file").write_text("")
    for path, says in ((tmp_path / "file/a.png", "cannot be written"), (tmp_path / "a.gif", r"as '\.gif'; known are")):
        with pytest.raises(ImageFileError, match=says):
            write_picture(path, Picture(PHOTO))
    assert not list(tmp_path.glob(".*tmp"))
