"""The trainer of E_LQ: its levels and figures against loops, a small run, and what a longer one reaches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toy_run import make_faces, make_recognizer, run, stage_options
from train_self_encoder import answer, level_ranges, main

from basicsr.data.degradation import DegradationRanges
from basicsr.inference import FaceRestorer
from basicsr.recognizers import RecognizerSpec, crop_to_template, save_recognizer
from basicsr.recognizers.iresnet import IResNet
from basicsr.utils.errors import OptionError, WeightsError
from basicsr.utils.img_util import img2tensor, imread, list_images
from basicsr.utils.weights import load_file, save_atomic


def arguments(folder: Path, *more: str, num_people: int = 8) -> list[str]:
    """Of a run on 32 px faces; everything it needs is made in `folder`."""
    index = make_faces(folder / "faces", num_people)
    recognizer = make_recognizer(folder / "recognizer.safetensors")
    paths = ["--index", str(index), "--recognizer", str(recognizer), "--out", str(folder / "self.pth")]
    return [*paths, "--size", "32", "--input_size", "32", "--workers", "0", "--batch_size", "8", *more]


def test_levels_cut_every_range_into_thirds_from_light_to_severe() -> None:
    ranges = DegradationRanges(blur_sigma=(1, 4), downsample_range=(6, 12), noise_range=None, jpeg_range=(30, 90))
    light, medium, severe = (level_ranges(ranges, number) for number in range(3))
    assert light.blur_sigma == (1, 2)
    assert light.jpeg_range == (70, 90)
    assert medium.downsample_range == (8, 10)
    assert (severe.blur_sigma, severe.downsample_range, severe.jpeg_range) == ((3, 4), (10, 12), (30, 50))
    assert severe.noise_range is None


def test_an_answer_equals_a_loop() -> None:
    embedding, clean = (F.normalize(torch.randn(6, 4), dim=1) for _ in range(2))
    people = [0, 0, 1, 1, 2, 2]
    same, other, right = [], [], []
    for i in range(6):
        cosines = [float(embedding[i] @ clean[j]) for j in range(6)]
        same.append(cosines[i])
        other += [cosine for j, cosine in enumerate(cosines) if people[j] != people[i]]
        right.append(people[int(np.argmax(cosines))] == people[i])
    found = answer(embedding, clean, torch.tensor([[one == two for two in people] for one in people]))
    assert found == pytest.approx((np.mean(same), np.mean(other), np.mean(right)), abs=1e-5)


def test_a_run_writes_a_student_that_stages_and_the_restorer_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert main(arguments(tmp_path, "--iterations", "2")) == 0
    assert [line.split()[0] for line in caplog.text.splitlines() if line.startswith(("light", "medium", "severe"))]
    run(stage_options(1, tmp_path, total_iter=2), tmp_path)
    plain = stage_options(2, tmp_path, total_iter=2)
    plain["network_identity"]["self_path"] = str(tmp_path / "self.pth")
    trainer = run(plain, tmp_path)
    assert trainer.stage.self_encoder is not None
    weights = tmp_path / "experiments/toy2/models/net_g_latest.pth"
    restorer = FaceRestorer(weights, device="cpu")
    assert restorer.self_encoder is not None
    photo = imread(tmp_path / "faces/0_0.png")
    restorer.self_encoder.min_quality = 0.0
    assert restorer.restore(photo).mode == "self"
    restorer.self_encoder.min_quality = 1.0
    refused = restorer.restore(photo)
    assert refused.mode == "none"
    assert np.array_equal(refused.image, restorer.restore(photo, mode="none").image)


def test_another_student_than_that_of_the_training_is_refused(tmp_path: Path) -> None:
    assert main(arguments(tmp_path, "--iterations", "2")) == 0
    run(stage_options(1, tmp_path, total_iter=2), tmp_path)
    plain = stage_options(2, tmp_path, total_iter=2)
    plain["network_identity"]["self_path"] = str(tmp_path / "self.pth")
    run(plain, tmp_path)
    contents = load_file(tmp_path / "self.pth")
    contents["self_encoder"]["facts"]["index"] = "elsewhere"
    save_atomic(contents, tmp_path / "other.pth")
    weights = tmp_path / "experiments/toy2/models/net_g_latest.pth"
    with pytest.raises(WeightsError, match=r"other\.pth: is not the self encoder"):
        FaceRestorer(weights, device="cpu", self_encoder=tmp_path / "other.pth")


def test_wrong_arguments_are_one_line(tmp_path: Path) -> None:
    for extra, word in ((["--size", "8"], "--size 8"), (["--batch_size", "1"], "--batch_size 1")):
        with pytest.raises(OptionError, match=word) as caught:
            main([*arguments(tmp_path), *extra])
        assert "\n" not in str(caught.value)


def make_telling_recognizer(folder: Path) -> None:
    """An untrained network whose batch statistics are those of the faces: faces differ, and each keeps its place."""
    torch.manual_seed(0)
    net = IResNet((1, 1, 1, 1), width=8, input_size=(32, 32), embed_dim=16).train()
    photos = torch.stack([img2tensor(imread(path)) for path in list_images(folder / "faces")])
    with torch.no_grad():
        for _ in range(30):
            net(crop_to_template(photos, (32, 32)))
    spec = RecognizerSpec(
        "iresnet", (32, 32), "rgb", (127.5,) * 3, (127.5,) * 3, (0.0, 0.0), 16, net.map_shape, 4.0, sha256=""
    )
    save_recognizer(net.eval(), folder / "recognizer.safetensors", spec)


@pytest.mark.slow
def test_training_names_more_degraded_photos_of_unseen_people(tmp_path: Path) -> None:
    base = arguments(tmp_path, num_people=60)
    make_telling_recognizer(tmp_path)
    figures = []
    for iterations in ("2", "150"):
        assert main([*base, "--iterations", iterations, "--batch_size", "16"]) == 0
        figures.append(load_file(tmp_path / "self.pth")["self_encoder"]["facts"])
    untrained, trained = figures
    for level in ("medium", "severe"):
        assert trained[f"rank1_{level}"] > untrained[f"rank1_{level}"] + 0.05
    assert trained["same_severe"] > untrained["same_severe"]
