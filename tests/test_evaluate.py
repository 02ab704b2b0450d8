"""Evaluation end to end on tiny pictures, with a small random recogniser as the judge."""

from __future__ import annotations

import json
from pathlib import Path

import evaluate as evaluate_script
import numpy as np
import pytest
import torch

from basicsr.evaluation import EvaluationResult, JudgingOptions, Sources, evaluate_folders
from basicsr.evaluation.loading import read_ahead
from basicsr.evaluation.sources import ANY_RUN
from basicsr.metrics.color_metric import ColorDifferenceMetric
from basicsr.metrics.identity_metric import IdentityMetric
from basicsr.metrics.psnr_ssim_metric import PSNRMetric, SSIMMetric
from basicsr.recognizers import RecognizerSpec, save_recognizer
from basicsr.recognizers.iresnet import IResNet
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import img2tensor, imread, imwrite

SIDE = 48
NAMES = ("a", "b", "c", "d")


def save_judge(path: Path, seed: int, facts: dict[str, str | int | float] | None = None) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = IResNet([1, 1, 1, 1], width=4, input_size=(32, 32), embed_dim=16)
    spec = RecognizerSpec(
        layout="iresnet", input_size=(32, 32), color_order="rgb", mean=(127.5,) * 3, std=(127.5,) * 3,
        template_offset=(0.0, 0.0), embed_dim=16, map_shape=net.map_shape, typical_norm=None, sha256="",
    )  # fmt: skip
    save_recognizer(net.eval(), path, spec, facts)
    return path


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_judge(tmp_path_factory.mktemp("weights") / "judge.safetensors", seed=0)


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    """Four faces (noise), a good run, a bad run, references."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        gt = rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
        imwrite(tmp_path / "gt" / f"{name}.png", gt)
        imwrite(tmp_path / "ref" / f"{name}.png", rng.integers(0, 256, gt.shape).astype(np.uint8))
        for run, sigma in (("good", 5), ("bad", 60)):
            noisy = np.clip(gt + rng.normal(0, sigma, gt.shape), 0, 255).astype(np.uint8)
            imwrite(tmp_path / run / f"{name}.png", noisy)
    return Sources({"good": tmp_path / "good", "bad": tmp_path / "bad"}, tmp_path / "gt", {ANY_RUN: tmp_path / "ref"})


def judged(sources: Sources, judge: Path) -> EvaluationResult:
    return evaluate_folders(sources, JudgingOptions([judge], lpips_nets=()), device=torch.device("cpu"))


def batch(folder: Path | None) -> torch.Tensor:
    assert folder is not None
    return torch.stack([img2tensor(imread(folder / f"{name}.png")) for name in NAMES])


def test_values_are_those_of_the_metrics_on_the_files(sources: Sources, judge: Path) -> None:
    result = judged(sources, judge)
    gt = batch(sources.gt)
    metrics = {"psnr": PSNRMetric(), "ssim": SSIMMetric(), "delta_e": ColorDifferenceMetric()}
    for run, folder in sources.restored.items():
        for key, metric in (metrics | {"ids_judge": IdentityMetric(str(judge))}).items():
            # 1e-6: float32 embeddings, batched differently
            assert np.allclose(result.values_of(run, key), metric.measure(batch(folder), gt).numpy(), atol=1e-6)


def test_identity_is_also_judged_against_the_reference_next_to_the_natural_similarity(
    sources: Sources, judge: Path
) -> None:
    result = judged(sources, judge)
    refs = batch(sources.ref[ANY_RUN])
    metric = IdentityMetric(str(judge))
    to_ref = metric.measure(batch(sources.restored["good"]), refs).numpy()
    natural = metric.measure(refs, batch(sources.gt)).numpy()
    assert np.allclose(result.values_of("good", "ids_ref_judge"), to_ref, atol=1e-6)
    assert np.allclose(result.values_of("bad", "cos_ref_gt_judge"), natural, atol=1e-6)


def test_batching_by_size_changes_no_value(sources: Sources, judge: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = judged(sources, judge)
    monkeypatch.setattr("basicsr.evaluation.loading.MAX_BATCH", 1)
    alone = judged(sources, judge)
    for figure in together.figures:
        assert np.allclose(together.values_of("bad", figure.key), alone.values_of("bad", figure.key), atol=1e-6)


def test_broken_and_mismatched_pictures_are_named_and_the_rest_is_judged(sources: Sources, judge: Path) -> None:
    truncated, small = sources.restored["bad"] / "b.png", sources.restored["bad"] / "c.png"
    truncated.write_bytes(truncated.read_bytes()[:500])
    imwrite(small, np.zeros((40, 40, 3), np.uint8))
    result = judged(sources, judge)
    found = {(failure.name, failure.run): failure.reason for failure in result.failures}
    assert "cut off" in found["b", "bad"]
    assert "restored is 40x40, ground truth 48x48" in found["c", "bad"]
    assert len(found) == 2
    # runs are compared on the same pictures: the good run loses b and c as well
    assert result.common_names("psnr") == ["a", "d"]
    assert result.summaries["good", "psnr"].n == 2


def test_a_broken_reference_costs_the_reference_figures_of_that_picture_only(sources: Sources, judge: Path) -> None:
    (sources.ref[ANY_RUN] / "a.png").write_bytes(b"no picture")
    result = judged(sources, judge)
    assert [failure.name for failure in result.failures] == ["a"]
    assert result.common_names("ids_judge") == list(NAMES)
    assert result.common_names("ids_ref_judge") == ["b", "c", "d"]


def test_when_nothing_can_be_judged_the_first_reason_is_given(sources: Sources, judge: Path) -> None:
    assert sources.gt is not None
    for name in NAMES:
        (sources.gt / f"{name}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 4 pairs could be judged; .*the file is empty"):
        judged(sources, judge)


def test_missing_weights_give_no_number_but_a_reason(sources: Sources, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("basicsr.utils.lpips_net.BACKBONE_FOLDER", tmp_path / "weights")
    result = evaluate_folders(sources, JudgingOptions(lpips_nets=("alex",)), device=torch.device("cpu"))
    assert [figure.key for figure in result.figures] == ["psnr", "ssim", "psnr_face", "delta_e"]
    assert [item.label for item in result.unavailable] == ["LPIPS-alex", "IDS"]
    assert "alexnet-owt-7be5be79.pth" in result.unavailable[0].reason


def test_the_recogniser_of_the_training_may_not_judge_unless_the_report_says_so(
    sources: Sources, judge: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "renamed.safetensors"
    copy.write_bytes(judge.read_bytes())
    with pytest.raises(UserError, match="recogniser of the training"):
        evaluate_folders(sources, JudgingOptions([judge], lpips_nets=(), trained_with=[copy]))
    options = JudgingOptions([judge], lpips_nets=(), trained_with=[copy], allow_same_recognizer=True)
    assert evaluate_folders(sources, options).labels == [
        "IDS (judge) is judged by the recogniser of the training: not evidence"
    ]


def test_another_recogniser_than_that_of_the_training_may_judge(sources: Sources, judge: Path, tmp_path: Path) -> None:
    other = save_judge(tmp_path / "other.safetensors", seed=1)
    assert evaluate_folders(sources, JudgingOptions([judge], lpips_nets=(), trained_with=[other])).labels == []


def test_a_judge_of_generated_faces_is_labelled_from_its_file(sources: Sources, tmp_path: Path) -> None:
    path = save_judge(tmp_path / "demo.safetensors", seed=0, facts={"trained_on": "generated faces"})
    result = judged(sources, path)
    assert result.labels == ["IDS: generated-face recogniser"]
    assert result.figures_of_kind("ids")[0].label == "IDS (demo, generated-face recogniser)"


def test_reading_ahead_keeps_the_order_and_bounds_what_is_in_memory() -> None:
    started: list[int] = []

    def load(item: int) -> int:
        started.append(item)
        return item * item

    for item, loaded in read_ahead(load, range(100)):
        assert loaded == item * item
        assert max(started) <= item + 33


def test_the_script_writes_three_files_and_tells_by_its_exit_code_that_something_failed(
    sources: Sources, judge: Path, tmp_path: Path
) -> None:
    arguments = ["--restored", f"good={sources.restored['good']}", "--gt", str(sources.gt), "--lpips_net"]
    arguments += ["--recognizer", str(judge), "--out", str(tmp_path / "out")]
    assert evaluate_script.main(arguments) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert {entry["key"] for entry in metrics["figures"]} == {"psnr", "ssim", "psnr_face", "delta_e", "ids_judge"}
    assert (tmp_path / "out" / "per_image.csv").is_file()
    assert (tmp_path / "out" / "report.html").is_file()
    (sources.restored["good"] / "a.png").unlink()
    assert evaluate_script.main(arguments) == 1


def test_the_script_refuses_two_runs_of_one_name(sources: Sources, tmp_path: Path) -> None:
    good, bad = sources.restored.values()
    with pytest.raises(UserError, match="the name 'x' is taken"):
        evaluate_script.main(["--restored", f"x={good}", f"x={bad}", "--gt", str(sources.gt), "--out", str(tmp_path)])


@pytest.mark.gpu
def test_values_on_the_gpu_are_those_of_the_cpu(sources: Sources, judge: Path) -> None:
    on_cpu = judged(sources, judge)
    on_gpu = evaluate_folders(sources, JudgingOptions([judge], lpips_nets=()), device=torch.device("cuda"))
    for figure in on_cpu.figures:
        # 5e-3: convolutions may run in TF32 on the GPU
        assert np.allclose(on_cpu.values_of("bad", figure.key), on_gpu.values_of("bad", figure.key), atol=5e-3)
