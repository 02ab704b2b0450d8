"""Whole photos through the command: results and their places, gray, boxes, references, galleries, resuming."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from restorer_toys import CELL, PHOTO_SIZE, make_net, photo_arguments, photo_with

import inference_codeformer as tool
from basicsr.faces import load_detector
from basicsr.inference import FaceRestorer, ReferenceReader, RestoredFace
from basicsr.inference.batch import restore_each
from basicsr.inference.gallery import Gallery, Person
from basicsr.inference.inputs import default_output
from basicsr.inference.photo import Painter
from basicsr.inference.photo_files import is_of_one_photo
from basicsr.inference.upsampler import Upsampler
from basicsr.utils.deep_picture import to_eight
from basicsr.utils.errors import ImageFileError, UserError
from basicsr.utils.img_util import Image, imread, imwrite
from basicsr.utils.picture import Picture, read_picture, write_picture

Tool = Callable[..., int]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the toy parts, one.png, two.png, gray.png, and a gallery of two people."""
    folder = tmp_path_factory.mktemp("toy")
    make_net(folder)
    imwrite(folder / "one.png", photo_with((1, 1)))
    imwrite(folder / "two.png", photo_with((0, 0), (2, 2), seed=1))
    imwrite(folder / "gray.png", photo_with((1, 1))[..., [1, 1, 1]])
    imwrite(folder / "people/ann/a.png", photo_with((1, 1), seed=2))
    imwrite(folder / "people/ann/b.png", photo_with((1, 1), seed=3))
    imwrite(folder / "people/bob.png", photo_with((0, 1), seed=4))
    return folder


@pytest.fixture
def restore(toy: Path, tmp_path: Path) -> Tool:
    """The command with the toy parts and -o tmp_path/out."""
    return lambda *a: tool.main([*photo_arguments(toy), "-o", str(tmp_path / "out"), *(str(x) for x in a)])


def results(folder: Path) -> dict[str, Any]:
    contents: dict[str, Any] = json.loads((folder / "out/results.json").read_text())
    return contents


def test_a_photo_gives_crops_faces_and_the_enlarged_photo(toy: Path, restore: Tool, tmp_path: Path) -> None:
    assert restore("-i", toy / "two.png", "-s", "2") == 0
    out = tmp_path / "out"
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    assert names == [
        "cropped_faces/two_00.png", "cropped_faces/two_01.png", "final_results/two.png",
        "restored_faces/two_00.png", "restored_faces/two_01.png",
    ]  # fmt: skip
    photo, final = imread(toy / "two.png"), imread(out / "final_results/two.png")
    assert final.shape == (2 * PHOTO_SIZE, 2 * PHOTO_SIZE, 3)
    corner = final[:60, -60:].reshape(30, 2, 30, 2, 3).mean((1, 3))  # no face there
    assert np.abs(corner - photo[:30, -30:]).mean() < 8
    faces = results(tmp_path)["faces"]
    assert [face["face"] for face in faces] == [0, 1]
    assert [[round(value / CELL) for value in face["box"]] for face in faces] == [[0, 0, 2, 2], [2, 2, 4, 4]]
    assert all(face["seconds"] > 0 and face["w"] == 0.5 and 0 < face["score"] <= 1 for face in faces)


def test_only_the_face_nearest_to_the_centre_is_restored_when_asked(toy: Path, restore: Tool, tmp_path: Path) -> None:
    imwrite(tmp_path / "in.png", photo_with((0, 0), (1, 2)))
    assert restore("-i", tmp_path / "in.png", "--only_center_face", "-s", "1") == 0
    (face,) = results(tmp_path)["faces"]
    assert round(face["box"][1] / CELL) == 2


def test_a_gray_photo_stays_gray_unless_told_otherwise(toy: Path, restore: Tool, tmp_path: Path) -> None:
    assert restore("-i", toy / "gray.png") == 0
    final = imread(tmp_path / "out/final_results/gray.png").astype(int)
    assert np.abs(final - final[..., :1]).max() == 0
    assert restore("-i", toy / "gray.png", "--no-keep_gray") == 0
    final = imread(tmp_path / "out/final_results/gray.png").astype(int)
    assert np.abs(final - final[..., :1]).max() > 0


def test_a_box_is_drawn_when_asked(toy: Path, restore: Tool, tmp_path: Path) -> None:
    restore("-i", toy / "one.png", "--draw_box", "-s", "1")
    final = imread(tmp_path / "out/final_results/one.png")
    assert final[CELL + 20, CELL].tolist() == [0, 255, 0]


def test_format_and_names_follow_the_flags_and_sub_folders_are_read_when_asked(
    toy: Path, restore: Tool, tmp_path: Path
) -> None:
    for name in ("a.png", "b/c.png"):
        imwrite(tmp_path / "in" / name, photo_with((1, 1)))
    assert restore("-i", tmp_path / "in", "--ext", "jpg", "--suffix", "x") == 0
    assert [path.name for path in (tmp_path / "out/final_results").iterdir()] == ["a_x.jpg"]
    assert restore("-i", tmp_path / "in", "--recursive", "--ext", "webp") == 0
    assert sorted(path.name for path in (tmp_path / "out/final_results").rglob("*.webp")) == ["a.webp", "c.webp"]


def test_results_below_the_input_folder_are_no_input_of_the_next_run(
    toy: Path, restore: Tool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    imwrite(tmp_path / "album/a.png", photo_with((1, 1)))
    imwrite(tmp_path / "album/final_results/mine.png", photo_with((1, 1)))  # a folder of that name is no result
    out = tmp_path / "album/out"
    for _ in range(2):
        assert restore("-i", tmp_path / "album", "-o", out, "--recursive") == 0
        assert sorted(path.name for path in (out / "final_results").iterdir()) == ["a.png", "mine.png"]
    assert "6 results of earlier runs below it are left out" in caplog.text
    assert restore("-i", out / "cropped_faces", "--has_aligned", "-o", tmp_path / "again") == 0, "asked for by name"
    with pytest.raises(ImageFileError, match="nothing but results"):
        restore("-i", out, "--recursive")


def test_references_are_aligned_and_several_faces_are_warned_of(
    toy: Path, restore: Tool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ref = toy / "people/ann/a.png"
    assert restore("-i", toy / "two.png", "--ref", ref) == 0
    assert any("2 faces, and the references are used for each" in record.getMessage() for record in caplog.records)
    for face in results(tmp_path)["faces"]:
        assert (face["mode"], face["refs"]) == ("ref", [str(ref)])
        assert -1 <= face["similarity_before"] <= 1
        assert -1 <= face["similarity_after"] <= 1


def test_references_of_someone_else_are_reported(
    toy: Path, restore: Tool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    restore("-i", toy / "one.png", "--ref", toy / "people/bob.png", "--doubtful", "2")
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("bob.png" in warning for warning in warnings)
    assert results(tmp_path)["faces"][0]["doubtful_references"] == [str(toy / "people/bob.png")]
    restore("-i", toy / "one.png", "--ref", toy / "people/bob.png", "--doubtful=-1")
    assert "doubtful_references" not in results(tmp_path)["faces"][0]


def test_of_several_references_the_one_of_someone_else_is_named(
    toy: Path, restore: Tool, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = [toy / "people/ann/a.png", toy / "people/bob.png"]
    monkeypatch.setattr(FaceRestorer, "_similarities", lambda self, faces, known: [[0.75, 0.25]] * len(known))
    assert restore("-i", toy / "one.png", "--ref", *refs, "--doubtful", "0.5") == 0
    (face,) = results(tmp_path)["faces"]
    assert (face["similarity_before"], face["similarity_to_each"]) == (0.5, [[0.75, 0.75], [0.25, 0.25]])
    assert face["doubtful_references"] == [str(refs[1])]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert ["bob.png" in warning for warning in warnings] == [True]


def test_references_that_show_two_people_are_warned_of_once(
    toy: Path, restore: Tool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refs = [toy / "people/ann/a.png", toy / "people/bob.png"]
    for doubtful, count in (("2", 2), ("-1", 0)):
        caplog.clear()
        assert restore("-i", toy / "two.png", "--ref", *refs, f"--doubtful={doubtful}") == 0
        said = [r.getMessage() for r in caplog.records if "they may show two people" in r.getMessage()]
        assert len(said) == count
        assert [ref.name for ref, line in zip(refs, said, strict=False) if str(ref) in line] == ["a.png", "bob.png"][
            :count
        ]


def test_a_gallery_matches_one_to_one_and_says_why_not(toy: Path, restore: Tool, tmp_path: Path) -> None:
    flags = ["--ref_dir", toy / "people", "--match_threshold=-1", "--match_margin", "0"]
    assert restore("-i", toy / "two.png", *flags) == 0
    faces = results(tmp_path)["faces"]
    matched = [face for face in faces if face["person"] is not None]
    assert 1 <= len(matched) == len({face["person"] for face in matched})
    for face in faces:
        if face["person"] is None:
            assert (face["refs"], face["mode"], face["w_id"]) == ([], "none", None), "blind"
            assert "which is more similar" in face["match_refused"]
        else:
            assert face["mode"] == "ref"
            assert all(Path(ref).is_relative_to(toy / "people") for ref in face["refs"])
            assert face["similarity_after"] is not None
    assert restore("-i", toy / "two.png", "--ref_dir", toy / "people", "--match_threshold", "1.5") == 0
    assert {face["person"] for face in results(tmp_path)["faces"]} == {None}
    assert "below the threshold 1.5" in results(tmp_path)["faces"][0]["match_refused"]
    assert {face["mode"] for face in results(tmp_path)["faces"]} == {"none"}
    assert (
        restore("-i", toy / "two.png", "--ref_dir", toy / "people", "--match_threshold", "1.5", "--mode", "self") == 0
    )
    assert {face["mode"] for face in results(tmp_path)["faces"]} == {"self"}, "it was asked for"


def test_a_gallery_is_embedded_once(toy: Path, restore: Tool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(2):
        assert restore("-i", toy / "one.png", "--ref_dir", toy / "people") == 0
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("gallery:")]
    assert told == [f"gallery: 2 people, 3 photos ({known} known from before)" for known in (0, 3)]


def test_an_interrupted_run_goes_on_and_changed_settings_restore_again(
    toy: Path, restore: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        imwrite(tmp_path / f"in/{number}.png", photo_with((1, 1), seed=number))
    (tmp_path / "in/broken.png").write_bytes(b"no picture")
    assert restore("-i", tmp_path / "in", "--resume") == 1
    (tmp_path / "out/final_results/1.png").unlink()
    restored: list[int] = []
    batch = FaceRestorer.restore_batch

    def counted(self: FaceRestorer, photos: Any, *more: Any, **knobs: Any) -> list[RestoredFace]:
        restored.append(len(photos))
        return batch(self, photos, *more, **knobs)

    monkeypatch.setattr(FaceRestorer, "restore_batch", counted)
    assert restore("-i", tmp_path / "in", "--resume") == 1  # the broken one is tried again
    assert restored == [1]
    assert restore("-i", tmp_path / "in", "--resume") == 1  # and nothing else, which does not make the rest undone
    assert restored == [1]
    (tmp_path / "in/broken.png").unlink()
    assert restore("-i", tmp_path / "in", "--resume") == 0
    assert restored == [1]
    imwrite(tmp_path / "in/2.png", photo_with((2, 1), seed=2))
    assert restore("-i", tmp_path / "in", "--resume") == 0
    assert restored == [1, 1]
    assert restore("-i", tmp_path / "in", "--resume", "-w", "0.7") == 0
    assert restored == [1, 1, 3]


def test_another_detector_file_of_the_same_name_restores_again(toy: Path, restore: Tool, tmp_path: Path) -> None:
    detector = tmp_path / "d.onnx"
    detector.write_bytes((toy / "scrfd.onnx").read_bytes())
    said = []
    for age in (10**9, 10**9, 2 * 10**9):
        os.utime(detector, (age, age))
        assert restore("-i", toy / "one.png", "--detector", detector, "--resume") == 0
        said.append((tmp_path / "out/final_results/one.png").stat().st_mtime_ns)
    assert said[0] == said[1] < said[2]


def test_videos_in_a_folder_of_pictures_are_named_and_counted(
    toy: Path, restore: Tool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    imwrite(tmp_path / "in/a.png", photo_with((1, 1)))
    for name in ("clip.mp4", "below/deep.MOV"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"a video")
    for more, count in ((), 1), (("--recursive",), 2):
        caplog.clear()
        assert restore("-i", tmp_path / "in", *more) == 0
        assert f"Restore it by itself: -i {tmp_path / 'in/clip.mp4'}" in caplog.text
        assert f"0 failed; {count} videos left out" in caplog.text
    (tmp_path / "in/a.png").unlink()
    with pytest.raises(ImageFileError, match="no pictures"):
        restore("-i", tmp_path / "in")


def test_a_photo_of_sixteen_bit_comes_back_with_sixteen_where_the_format_has_them(
    toy: Path, restore: Tool, tmp_path: Path
) -> None:
    photo = photo_with((1, 1)).astype(np.uint16) * 256 + np.random.default_rng(0).integers(
        0, 256, (128, 128, 3), np.uint16
    )
    write_picture(tmp_path / "in.png", Picture(to_eight(photo), deep=photo))
    for ext, more, kept in (("png", (), True), ("tif", (), True), ("bmp", (), False), ("png", ("--draw_box",), False)):
        assert restore("-i", tmp_path / "in.png", "-s", "1", "--ext", ext, *more) == 0
        final = read_picture(tmp_path / f"out/final_results/in.{ext}", deep=True)
        assert (final.deep is not None) == kept, ext
        if final.deep is not None:
            np.testing.assert_array_equal(final.deep[:, 100:], photo[:, 100:])  # no face there
            assert (final.deep[50:80, 50:80] != photo[50:80, 50:80]).mean() > 0.9


def test_the_default_output_is_called_by_the_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my.album").mkdir()
    monkeypatch.chdir(tmp_path / "my.album")
    for source, name in (("../a.b.jpg", "a.b_0.5"), (".", "my.album_0.5"), ("../my.album", "my.album_0.5")):
        assert default_output(Path(source), 0.5) == Path("results") / name


def test_too_little_memory_to_enlarge_a_photo_costs_that_photo_alone(
    toy: Path, restore: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Greedy(Upsampler):
        def __init__(self, *_: object) -> None:
            self.tile, self.lock = 400, threading.RLock()

        def _enlarged(self, image: Image) -> Image:
            if image.mean() > 50:  # the photo of two faces
                raise torch.OutOfMemoryError("too much")
            return image

    monkeypatch.setattr(tool, "Upsampler", Greedy)
    for name in ("one", "two"):
        imwrite(tmp_path / f"in/{name}.png", imread(toy / f"{name}.png"))
    assert restore("-i", tmp_path / "in", "--bg_upsampler", toy / "net.pth") == 1
    assert (tmp_path / "out/final_results/one.png").is_file()
    (failure,) = results(tmp_path)["failures"]
    assert failure["error"].endswith("two.png: not enough memory to enlarge tiles of 400 px. Lower --bg_tile.")


def test_a_name_that_is_too_long_for_its_results_costs_that_photo_alone(
    toy: Path, restore: Tool, tmp_path: Path
) -> None:
    for name in ("a" * 251, "b" * 240, "c"):
        imwrite(tmp_path / "photo.png", photo_with((1, 1)))
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "photo.png").rename(tmp_path / f"in/{name}.png")
    assert restore("-i", tmp_path / "in") == 1
    assert sorted(path.stem[0] for path in (tmp_path / "out/final_results").iterdir()) == ["b", "c"]
    (failure,) = results(tmp_path)["failures"]
    assert "aaa_00.png: cannot be written (File name too long)" in failure["error"]


@pytest.mark.parametrize(
    ("cause", "goes_on"),
    [
        (ValueError("image size exceeds the limit of WebP"), True),
        (OSError("encoder error"), True),
        (OSError(errno.ENAMETOOLONG, "too long"), True),
        (OSError(errno.ENOSPC, "no space"), False),
        (None, False),
    ],
)
def test_a_run_goes_on_where_a_photo_itself_is_why_it_cannot_be_written(cause: Exception | None, goes_on: bool) -> None:
    error = ImageFileError("a.webp: cannot be written.")
    error.__cause__ = cause
    assert is_of_one_photo(error) is goes_on


def test_a_dry_run_says_what_it_would_do_and_does_nothing(
    toy: Path, restore: Tool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert restore("-i", toy / "one.png", "--dry-run") == 0
    assert not (tmp_path / "out").exists()
    assert any(f"{toy / 'one.png'} -> " in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--ref_dir", "nowhere"], "--ref_dir nowhere: no such folder"),
        (["--ref_dir", "nowhere", "--ref", "a.png"], "--ref_dir beside --ref"),
        (["--face_upsample"], "Name one with --bg_upsampler"),
        (["-s", "0"], "--upscale is 0"),
        (["--quality", "0"], "--quality is 0"),
        (["--suffix", "a/b"], "--suffix a/b: is a part of a file's name"),
        (["--detector", "nowhere.onnx"], "no such detector file"),
        (["--detection_threshold", "7"], r"expected 0 \.\. 1"),
        (["--parsing", "nowhere.pth"], r"nowhere\.pth: no such weights file\..*--parsing FILE.*parsing_parsenet\.pth"),
        (
            ["--weights", "nowhere.pth"],
            r"nowhere\.pth: no such weights file\..*--weights FILE.*models\.py codeformer\.pth",
        ),
        (["--bg_upsampler", "x2.pth"], r"x2\.pth: no such weights file\..*--bg_upsampler FILE.*RealESRGAN_x2plus\.pth"),
        (["--detector", "face_detection_yunet_2023mar.onnx"], r"no such detector file\..*YuNet .*github\.com/opencv"),
        (["--detector", "buffalo_l"], r"no such detector file\..*~/\.insightface/models"),
    ],
)
def test_flags_that_cannot_be_are_one_line(toy: Path, restore: Tool, flags: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        restore("-i", toy / "one.png", *flags)
    assert "\n" not in str(caught.value)


def test_without_a_detector_file_the_line_says_which_to_put_where(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"facelib/detection_Resnet50_Final\.pth: no such file.*by hand"):
        tool.main(["-i", str(toy / "one.png"), "--weights", str(toy / "net.pth"), "-o", str(tmp_path)])


def test_from_python_a_photo_gives_what_the_command_gives(toy: Path, restore: Tool, tmp_path: Path) -> None:
    restore("-i", toy / "two.png", "--ref", toy / "people/bob.png", "-s", "1.5")
    restorer, detector = FaceRestorer(toy / "net.pth", device="cpu"), load_detector(toy / "scrfd.onnx", max_side=128)
    reader = ReferenceReader(detector)
    ref = reader.read(toy / "people/bob.png")
    photo = restorer.restore_photo(toy / "two.png", [ref], detector=detector, painter=Painter(upscale=1.5), w=0.5)
    final = imread(tmp_path / "out/final_results/two.png")
    assert np.abs(photo.image.astype(int) - final).max() <= 1
    assert [face.restored.mode for face in photo.faces] == ["ref", "ref"]
    people = [Person("bob", (toy / "people/bob.png",), restorer.embed([ref]).numpy()[0])]
    gallery = Gallery(people, reader.read, threshold=-1)
    for threshold, expected in ((-1.0, ("bob", "ref")), (1.5, (None, "none"))):
        gallery.threshold = threshold
        known = restorer.restore_photo(toy / "one.png", detector=detector, gallery=gallery)
        assert (known.faces[0].person, known.faces[0].restored.mode) == expected
    with pytest.raises(ImageFileError, match="no face found"):
        restorer.restore_photo(photo_with(), detector=detector)


def test_one_face_that_fails_and_too_little_memory_cost_the_others_nothing() -> None:
    class Toy:
        def restore_batch(self, crops: list[int], refs: list[int], **_: Any) -> list[int]:
            if len(crops) > 2:
                raise torch.OutOfMemoryError("too many")
            if 13 in crops:
                raise ImageFileError("no embedding")
            return crops

    found = restore_each(Toy(), [1, 2, 13, 4, 5], [0] * 5, [None] * 5)  # type: ignore[arg-type, list-item]
    assert [str(face) for face in found] == ["1", "2", "no embedding", "4", "5"]


def test_a_network_of_spandrel_enlarges_in_tiles_without_a_seam() -> None:
    spandrel = pytest.importorskip("spandrel", reason="the extra spandrel is not installed")
    from basicsr.inference.upsampler import Upsampler

    assert spandrel is sys.modules["spandrel"]
    whole, tiled = (Upsampler.__new__(Upsampler) for _ in range(2))
    for upsampler, tile in ((whole, 0), (tiled, 30)):
        blur = torch.nn.Conv2d(3, 3, 3, padding=1, bias=False)
        torch.nn.init.constant_(blur.weight, 1 / 27)
        net = torch.nn.Sequential(blur, torch.nn.Upsample(scale_factor=2))
        upsampler.model, upsampler.device, upsampler.scale, upsampler.tile = net, torch.device("cpu"), 2, tile
        upsampler.lock = threading.RLock()
    photo = photo_with((1, 1), size=100)
    large = whole.enlarge(photo)
    assert large.shape == (200, 200, 3)
    np.testing.assert_array_equal(tiled.enlarge(photo), large)
    assert whole.enlarge_to(photo, (150, 140)).shape == (150, 140, 3)


@pytest.mark.slow
def test_a_weights_file_of_spandrel_enlarges_background_and_faces(toy: Path, restore: Tool, tmp_path: Path) -> None:
    pytest.importorskip("spandrel", reason="the extra spandrel is not installed")
    from spandrel.architectures.Compact import Compact

    torch.manual_seed(0)
    net = Compact(num_in_ch=3, num_out_ch=3, num_feat=16, num_conv=2, upscale=2)
    torch.save({"params": net.state_dict()}, tmp_path / "x2.pth")
    for more in ([], ["--face_upsample"]):
        flags = ["--bg_upsampler", tmp_path / "x2.pth", "--bg_tile", "50", "-s", "3", *more]
        assert restore("-i", toy / "one.png", *flags) == 0
        assert imread(tmp_path / "out/final_results/one.png").shape == (3 * PHOTO_SIZE, 3 * PHOTO_SIZE, 3)
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth: no network for enlarging"):
        restore("-i", toy / "one.png", "--bg_upsampler", tmp_path / "other.pth")
