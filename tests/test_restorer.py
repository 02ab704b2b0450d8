"""Restoring with a weights file alone: the same pictures as the network gives, whatever the batch; modes; refusals."""

from __future__ import annotations

import csv
import json
import logging
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from toy_run import SIZE, make_recognizer, run, stage_options

import inference_codeformer as tool
from basicsr.archs.id_codeformer_arch import IDCodeFormer
from basicsr.inference import FaceRestorer
from basicsr.models.identity_source import MODE_REF, fixed_modes, identity_features
from basicsr.utils.cli import run_main
from basicsr.utils.errors import ImageFileError, UserError, WeightsError
from basicsr.utils.img_util import img2tensor, imread, tensor2img
from basicsr.utils.weights import load_file, save_atomic

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights of toy stages I and II, whose identity parts are no longer zero."""
    folder = tmp_path_factory.mktemp("toy")
    run(stage_options(1, folder, total_iter=2), folder)
    run(stage_options(2, folder, total_iter=2), folder)
    path = folder / "experiments/toy2/models/net_g_latest.pth"
    contents = load_file(path)
    generator = torch.Generator().manual_seed(0)
    for name, value in contents["params_ema"].items():
        if "cross_attn" in name or "style_dict" in name:
            value.normal_(0, 0.5, generator=generator)
    save_atomic(contents, folder / "net.pth")
    sharing = stage_options(2, folder, total_iter=2)
    sharing["network_g"]["inject"] = "kv_share"
    run({**sharing, "name": "toy_sharing"}, folder)
    contents = load_file(folder / "experiments/toy_sharing/models/net_g_latest.pth")
    for name, value in contents["params_ema"].items():
        if "kv_share" in name:
            value.fill_(0.8)
    save_atomic(contents, folder / "sharing.pth")
    return folder


def photos(toy: Path, *names: str) -> list[np.ndarray]:
    return [imread(toy / "faces" / f"{name}.png") for name in names]


def test_the_restorer_gives_the_picture_that_the_network_gives(toy: Path) -> None:
    restorer = FaceRestorer(toy / "net.pth", device="cpu")
    photo, ref = photos(toy, "0_0", "0_1")
    lq, refs = img2tensor(photo)[None], img2tensor(ref)[None, None]
    assert isinstance(restorer.net, IDCodeFormer)
    assert restorer.recognizer is not None
    mask = torch.ones(1, 1, dtype=torch.bool)
    identity = identity_features(restorer.recognizer, lq, refs, mask, fixed_modes("ref", 1, lq.device))
    with torch.no_grad():
        expected = restorer.net(lq, identity, w=0.5, w_id=0.7, id_scale=1.5).restored
    assert fixed_modes("ref", 1, lq.device).tolist() == [MODE_REF]
    found = restorer.restore(photo, [ref], w=0.5, w_id=0.7, id_scale=1.5)
    assert np.array_equal(found.image, tensor2img(expected[0]))


@pytest.mark.parametrize("weights", ["net.pth", "sharing.pth"])
def test_references_encoded_once_restore_every_face_as_their_photos_do(toy: Path, weights: str) -> None:
    restorer, passes = FaceRestorer(toy / weights, device="cpu"), []
    faces, refs = photos(toy, "0_0", "1_0"), photos(toy, "0_1", "0_2")
    expected = restorer.restore_batch(faces, [refs, refs])
    assert not np.array_equal(expected[0].image, restorer.restore(faces[0], mode="none").image)
    encoded = restorer.encode_references(refs)
    restorer.net.encoder.blocks[0].register_forward_hook(lambda _module, inputs, _out: passes.append(len(inputs[0])))
    for face, wanted in zip(faces, expected, strict=True):
        found = restorer.restore(face, encoded)
        assert np.abs(found.image.astype(int) - wanted.image).max() <= 1
        assert (found.mode, found.similarity_after) == ("ref", pytest.approx(wanted.similarity_after, abs=1e-4))
    assert passes == [1, 1], "each pass reads one degraded face and no reference"


def test_faces_with_and_without_references_share_a_batch_of_a_network_that_shares_keys(toy: Path) -> None:
    restorer = FaceRestorer(toy / "sharing.pth", device="cpu")
    faces, refs = photos(toy, "0_0", "1_0", "2_0"), [photos(toy, "0_1", "0_2"), [], photos(toy, "2_1")]
    batch = restorer.restore_batch(faces, refs)
    assert [face.mode for face in batch] == ["ref", "self", "ref"]
    for face, photo, its_refs in zip(batch, faces, refs, strict=True):
        assert np.abs(face.image.astype(int) - restorer.restore(photo, its_refs).image).max() <= 1


def test_a_face_does_not_depend_on_its_neighbours_in_the_batch(toy: Path) -> None:
    restorer = FaceRestorer(toy / "net.pth", device="cpu")
    faces, refs = photos(toy, "0_0", "1_0", "2_0"), [photos(toy, "0_1", "0_2"), [], photos(toy, "2_1")]
    batch = restorer.restore_batch(faces, refs, w=0.5)
    assert [face.mode for face in batch] == ["ref", "self", "ref"]
    for face, photo, its_refs in zip(batch, faces, refs, strict=True):
        alone = restorer.restore(photo, its_refs, w=0.5)
        assert np.abs(face.image.astype(int) - alone.image).max() <= 1
        assert face.similarity_after == pytest.approx(alone.similarity_after, abs=1e-4)


def test_modes_knobs_and_references_change_the_picture_and_mode_none_ignores_them(toy: Path) -> None:
    restorer = FaceRestorer(toy / "net.pth", device="cpu")
    photo, own, other = photos(toy, "0_0", "0_1", "2_1")
    none = restorer.restore(photo, mode="none").image
    assert np.array_equal(none, restorer.restore(photo, [own], mode="none", w_id=3.0, id_scale=4.0).image)
    pictures = [
        none,
        restorer.restore(photo).image,  # self
        restorer.restore(photo, [own]).image,
        restorer.restore(photo, [other]).image,
        restorer.restore(photo, [own], w_id=0.0).image,
    ]
    for i, one in enumerate(pictures):
        assert all(not np.array_equal(one, later) for later in pictures[i + 1 :])
    assert restorer.restore(photo).similarity_after is None


def test_files_and_arrays_one_reference_and_several_may_be_mixed(toy: Path) -> None:
    restorer = FaceRestorer(toy / "net.pth", device="cpu")
    face, ref = photos(toy, "0_0", "0_1")
    files = [toy / "faces" / f"0_{i}.png" for i in range(3)]
    expected = restorer.restore(face, [ref]).image
    for given in (ref, files[1], str(files[1]), [files[1]], (ref,), np.stack([ref])):
        assert np.array_equal(restorer.restore(str(files[0]), given).image, expected)
    batch = restorer.restore_batch([files[0], face], [str(files[1]), [ref, files[2]]])
    assert np.abs(batch[0].image.astype(int) - expected).max() <= 1
    assert np.allclose(restorer.embed([files[1]]), restorer.embed([ref]))


def test_what_is_no_picture_or_does_not_belong_together_is_a_line(toy: Path) -> None:
    restorer = FaceRestorer(toy / "net.pth", device="cpu")
    (face,) = photos(toy, "0_0")
    assert restorer.restore_batch([]) == []
    for picture, line in (
        (face.astype(np.float32), r"float32 \(32, 32, 3\), expected uint8 BGR"),
        (face[..., 0], r"uint8 \(32, 32\), expected"),
        (np.zeros((0, 0, 3), np.uint8), r"uint8 \(0, 0, 3\), expected"),
        (face[:20], "32x20 px, expected a square crop"),
        (torch.zeros(3, 32, 32), "a picture is a Tensor"),
        (toy / "missing.png", "missing.png: cannot be read"),
    ):
        with pytest.raises(ImageFileError, match=line):
            restorer.restore(picture)  # type: ignore[arg-type]
        with pytest.raises(ImageFileError, match=line):
            restorer.restore(face, [picture])  # type: ignore[list-item]
    with pytest.raises(UserError, match="2 photos and 1 lists of references"):
        restorer.restore_batch([face, face], [[face]])
    with pytest.raises(UserError, match="no reference photo"):
        restorer.encode_references([])


def test_another_recogniser_than_that_of_the_training_is_refused(toy: Path, tmp_path: Path) -> None:
    other = make_recognizer(tmp_path / "other.safetensors", seed=5)
    with pytest.raises(WeightsError, match="trained with"):
        FaceRestorer(toy / "net.pth", recognizer=other, device="cpu")


def test_weights_of_a_vqgan_and_devices_that_are_not_there_are_refused(toy: Path) -> None:
    with pytest.raises(WeightsError, match="restores nothing"):
        FaceRestorer(toy / "experiments/toy1/models/net_g_latest.pth", device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="Usable"):
            FaceRestorer(toy / "net.pth", device="cuda")


def run_tool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "inference_codeformer.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_restores_a_folder_goes_on_past_a_broken_picture_and_says_so(toy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in put"
    folder.mkdir()
    for name, photo in zip(("ä a", "b"), photos(toy, "0_0", "1_0"), strict=True):
        cv2.imencode(".png", photo)[1].tofile(folder / f"{name}.png")
    (folder / "broken.png").write_bytes((folder / "b.png").read_bytes()[:200])
    arguments: list[str | Path] = [
        "-i",
        folder,
        "--ref",
        toy / "faces/0_1.png",
        "--has_aligned",
        "--weights",
        toy / "net.pth",
    ]
    done = run_tool(*arguments, "-o", tmp_path / "out", "--device", "cpu", "--suffix", "x")
    assert done.returncode == 1, done.stderr
    assert "broken.png: the picture is cut off" in done.stderr
    assert "Traceback" not in done.stderr
    names = sorted(path.name for path in (tmp_path / "out/restored_faces").iterdir())
    assert names == ["b_x.png", "ä a_x.png"]
    report = json.loads((tmp_path / "out/results.json").read_text())
    assert [face["mode"] for face in report["faces"]] == ["ref", "ref"]
    assert all(-1 <= face["similarity_after"] <= 1 for face in report["faces"])
    assert len(report["failures"]) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-i", "missing.png", "--has_aligned"], "missing.png: no such file"),
        (["--has_aligned"], "give either -i"),
        (["-i", "{face}"], "--has_aligned"),
        (["-i", "{face}", "--has_aligned", "--mode", "ref"], "--ref"),
        (["-i", "{face}", "--has_aligned", "--weights", "none.pth"], "none.pth: no such weights file"),
        (["-i", "{face}", "--has_aligned", "--weights", "{face}"], "cannot be read as weights"),
    ],
)
def test_a_wrong_command_gets_one_line_and_exit_code_2(
    toy: Path,
    arguments: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    given = [argument.replace("{face}", str(toy / "faces/0_0.png")) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["inference_codeformer.py", *given])
    with pytest.raises(SystemExit) as left:
        run_main(tool.main)
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.strip().splitlines()) == 1
    assert not caplog.records


def test_each_input_of_a_pairs_file_gets_its_own_references(toy: Path, tmp_path: Path) -> None:
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["lq", "ref"])
        faces = toy / "faces"
        writer.writerow([faces / "0_0.png", f"{faces / '0_1.png'};{faces / '0_2.png'}"])
        writer.writerow([faces / "1_0.png", ""])
    asked = ["--pairs", tmp_path / "pairs.csv", "--has_aligned", "--weights", toy / "net.pth", "-o", tmp_path / "o"]
    assert tool.main([*map(str, asked), "--device", "cpu"]) == 0
    entries = json.loads((tmp_path / "o/results.json").read_text())["faces"]
    assert [(len(face["refs"]), face["mode"]) for face in entries] == [(2, "ref"), (0, "self")]
    expected = FaceRestorer(toy / "net.pth", device="cpu").restore(photos(toy, "0_0")[0], photos(toy, "0_1", "0_2"))
    assert np.abs(imread(tmp_path / "o/restored_faces/0_0.png").astype(int) - expected.image).max() <= 1
    assert SIZE == expected.image.shape[0]
