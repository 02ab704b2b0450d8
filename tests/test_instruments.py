"""The metrics of an evaluation: labels, protocols, and files that were named but are not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy_run import make_recognizer

from basicsr.evaluation.instruments import build_instruments, recognizers_of_runs
from basicsr.evaluation.judging_options import JudgingOptions
from basicsr.utils.errors import UserError
from basicsr.utils.weights import sha256_of


def test_crop_border_stands_in_the_protocol_of_pixel_metrics() -> None:
    instruments = build_instruments(JudgingOptions(lpips_nets=(), crop_border=4), {})
    figures = instruments.figures()
    assert [figure.label for figure in figures if "crop_border 4" in figure.protocol] == ["PSNR", "SSIM"]


def test_colour_drift_is_judged_with_its_direction_and_the_face_it_looks_at() -> None:
    figures = {figure.key: figure for figure in build_instruments(JudgingOptions(lpips_nets=()), {}).figures()}
    assert (figures["delta_e"].label, figures["delta_e"].better) == ("Delta E (face)", "lower")
    assert "CIEDE2000" in figures["delta_e"].protocol
    assert "FFHQ framing" in figures["delta_e"].protocol


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (JudgingOptions([Path("gone.onnx")], lpips_nets=()), r"gone\.onnx: no such recogniser file"),
        (JudgingOptions(lpips_nets=(), trained_with=[Path("gone.pth")]), r"gone\.pth: no such recogniser file"),
        (JudgingOptions(lpips_nets=("alex",), lpips_backbones=[Path("gone.pth")]), r"gone\.pth: no such file"),
        (JudgingOptions(lpips_nets=("alex",), lpips_backbones=[Path("a"), Path("b")]), "2 files for 1 nets"),
        (JudgingOptions(lpips_nets=("resnet",)), "expected alex, vgg, squeeze"),
        (JudgingOptions(crop_border=-1), "expected 0 or more"),
    ],
)
def test_what_was_named_must_be_there(options: JudgingOptions, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_instruments(options, {})


def test_the_recogniser_that_guided_a_restoration_may_not_judge_it(tmp_path: Path) -> None:
    guide, other = make_recognizer(tmp_path / "guide.safetensors"), make_recognizer(tmp_path / "other.safetensors", 1)
    pictures = tmp_path / "run" / "restored_faces"
    pictures.mkdir(parents=True)
    entry = {"recognizer": {"path": "somewhere.safetensors", "sha256": sha256_of(guide)}, "faces": []}
    (tmp_path / "run" / "results.json").write_text(json.dumps(entry))
    guided_by = recognizers_of_runs([pictures, tmp_path / "another_methods_folder"])
    with pytest.raises(UserError, match=r"guide\.safetensors: is the recogniser of the training.*somewhere"):
        build_instruments(JudgingOptions([guide], lpips_nets=()), guided_by)
    assert [judge.name for judge in build_instruments(JudgingOptions([other], lpips_nets=()), guided_by).judges] == [
        "other"
    ]


def test_a_results_file_that_is_broken_is_named(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(UserError, match=r"results\.json: cannot be read"):
        recognizers_of_runs([tmp_path])
