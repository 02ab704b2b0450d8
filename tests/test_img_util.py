"""Pictures in and out: colours, ranges, orientation, and files that are no pictures."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from basicsr.utils.errors import ImageFileError
from basicsr.utils.img_util import img2tensor, imread, imwrite, list_images, quantize, tensor2img


def test_a_picture_comes_back_from_a_tensor_and_from_a_png_unchanged(tmp_path: Path, photo: np.ndarray) -> None:
    tensor = img2tensor(photo)
    assert tensor.shape == (3, 32, 32)
    assert tensor[0, 0, 0] == pytest.approx(photo[0, 0, 2] / 127.5 - 1), "red comes first in a tensor"
    assert np.array_equal(tensor2img(tensor), photo)
    imwrite(tmp_path / "ü b" / "x.png", photo)
    assert np.array_equal(imread(tmp_path / "ü b" / "x.png"), photo)
    assert [entry.name for entry in (tmp_path / "ü b").iterdir()] == ["x.png"]


def test_quantising_equals_saving_with_8_bits_and_reading_again() -> None:
    values = torch.linspace(-1.2, 1.2, 3 * 16 * 16).view(3, 16, 16)
    assert torch.equal(quantize(values), img2tensor(tensor2img(values)))


def test_gray_alpha_16_bit_cmyk_and_rotated_pictures_become_plain_bgr(tmp_path: Path, photo: np.ndarray) -> None:
    gray, alpha = photo[..., 0], np.dstack([photo, photo[..., :1]])
    cases = {"gray": gray, "alpha": alpha, "deep": photo.astype(np.uint16) * 257}
    expected = {"gray": np.repeat(gray[..., None], 3, 2), "alpha": photo, "deep": photo}
    for name, image in cases.items():
        assert cv2.imwrite(str(tmp_path / f"{name}.png"), image)
        assert np.array_equal(imread(tmp_path / f"{name}.png"), expected[name]), name
    turned = PillowImage.fromarray(np.ascontiguousarray(photo[:16, :, ::-1]))
    exif = turned.getexif()
    exif[0x0112] = 6  # turn a quarter to show
    turned.save(tmp_path / "exif.jpg", exif=exif, quality=95)
    assert imread(tmp_path / "exif.jpg").shape == (32, 16, 3)
    PillowImage.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    blue, green, red = imread(tmp_path / "cmyk.jpg")[4, 4]
    assert red > 150
    assert max(blue, green) < 100


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_truncated_picture_is_refused_not_filled_with_gray(tmp_path: Path, photo: np.ndarray, suffix: str) -> None:
    imwrite(tmp_path / f"whole{suffix}", photo)
    data = (tmp_path / f"whole{suffix}").read_bytes()
    path = tmp_path / f"cut{suffix}"
    for share in (0.3, 0.9):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(ImageFileError, match="cut off"):
            imread(path)


def test_missing_empty_foreign_and_huge_files_get_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    bomb = io.BytesIO()
    PillowImage.new("1", (30_000, 2)).save(bomb, "png")
    (tmp_path / "bomb.png").write_bytes(bomb.getvalue())
    for name, says in (("no", "cannot be read"), ("empty", "empty"), ("text", "no picture"), ("bomb", "30000x2")):
        with pytest.raises(ImageFileError, match=says) as caught:
            imread(tmp_path / f"{name}.png")
        assert "\n" not in str(caught.value)


def test_folders_are_listed_sorted_with_sub_folders_and_without_other_files(tmp_path: Path, photo: np.ndarray) -> None:
    for name in ("b.png", "a.JPG", "sub/c.webp"):
        imwrite(tmp_path / name, photo)
    (tmp_path / "notes.txt").write_text("x")
    assert [path.name for path in list_images(tmp_path)] == ["a.JPG", "b.png", "c.webp"]
    assert [path.name for path in list_images(tmp_path, recursive=False)] == ["a.JPG", "b.png"]
    with pytest.raises(ImageFileError, match="no such folder"):
        list_images(tmp_path / "none")


def test_a_folder_that_takes_no_picture_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ImageFileError, match=r"a\.png: cannot be written"):
        imwrite(tmp_path / "file" / "a.png", np.zeros((2, 2, 3), np.uint8))  # even the clean-up fails
