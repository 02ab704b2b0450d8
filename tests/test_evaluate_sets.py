"""Sets of every kind: without ground truth, with a gallery, masks, thresholds, FID, faults."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import drawn_people
from test_evaluate import NAMES, SIDE, batch, save_judge

from basicsr.evaluation import EvaluationResult, JudgingOptions, Sources, evaluate_folders
from basicsr.evaluation.calibration import calibrate_people, threshold_at
from basicsr.evaluation.judges import EmbeddingStore, Judge
from basicsr.evaluation.sources import ANY_RUN
from basicsr.metrics.face_metric import FacePSNRMetric
from basicsr.metrics.fid import frechet_distance
from basicsr.metrics.psnr_ssim_metric import PSNRMetric
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import img2tensor, imread, imwrite

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_judge(tmp_path_factory.mktemp("weights") / "judge.safetensors", seed=0)


def faces(folder: Path, seed: int, names: tuple[str, ...] = NAMES) -> Path:
    rng = np.random.default_rng(seed)
    for name in names:
        imwrite(folder / f"{name}.png", rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8))
    return folder


def judged(sources: Sources, judge: Path, **options: object) -> EvaluationResult:
    return evaluate_folders(sources, JudgingOptions([judge], lpips_nets=(), **options), device=CPU)  # type: ignore[arg-type]


def cosines(judge: Path, one: Path, other: Path) -> np.ndarray:
    embed = Judge(judge, None, CPU)
    pairs = [(img2tensor(imread(one / f"{n}.png")), img2tensor(imread(other / f"{n}.png"))) for n in NAMES]
    return np.array([float(torch.dot(*embed.embed(torch.stack(pair)))) for pair in pairs])  # type: ignore[arg-type]


def test_a_set_without_ground_truth_gets_the_figures_that_are_defined_on_it(tmp_path: Path, judge: Path) -> None:
    run, lq = faces(tmp_path / "run", 1), faces(tmp_path / "lq", 2)
    gallery, ref = faces(tmp_path / "gallery", 3), faces(tmp_path / "ref", 4)
    result = judged(Sources({"run": run}, lq=lq, ref={ANY_RUN: ref}, gallery=gallery), judge)
    assert [figure.kind for figure in result.figures] == [
        "ids_ref", "ids_lq", "ids_gallery", "cos_lq_gallery", "cos_ref_gallery",
    ]  # fmt: skip
    for key, (one, other) in {
        "ids_lq_judge": (run, lq), "ids_gallery_judge": (run, gallery), "cos_ref_gallery_judge": (ref, gallery),
    }.items():  # fmt: skip
        assert np.allclose(result.values_of("run", key), cosines(judge, one, other), atol=1e-6)


@pytest.mark.parametrize("metric", ["psnr", "ids", "landmarks"])
def test_a_metric_that_is_undefined_on_the_set_is_refused_with_the_reason(
    tmp_path: Path, judge: Path, metric: str
) -> None:
    sources = Sources({"run": faces(tmp_path / "run", 1)}, lq=faces(tmp_path / "lq", 2))
    message = f"metric '{metric}': needs ground truth, and this set has none: the figure is undefined there. Legal here"
    with pytest.raises(UserError, match=message):
        judged(sources, judge, metrics=[metric])


def test_identity_before_restoration_stands_beside_that_after_it(tmp_path: Path, judge: Path) -> None:
    run, gt, lq = (faces(tmp_path / name, seed) for seed, name in enumerate(("run", "gt", "lq")))
    result = judged(Sources({"run": run}, gt, lq=lq), judge)
    assert np.allclose(result.values_of("run", "cos_lq_gt_judge"), cosines(judge, lq, gt), atol=1e-6)


def test_a_picture_of_one_colour_is_named_and_costs_no_other_its_identity(tmp_path: Path, judge: Path) -> None:
    run, gt = faces(tmp_path / "run", 1), faces(tmp_path / "gt", 2)
    whole = judged(Sources({"run": run}, gt), judge)

    lost = Judge(judge, None, CPU).embed(img2tensor(imread(run / "b.png"))[None])[0]
    assert isinstance(lost, torch.Tensor)

    def lose_b(self: EmbeddingStore, own: Judge, digest: bytes) -> torch.Tensor | str:
        found = self.found[own.name, digest]
        is_b = isinstance(found, torch.Tensor) and torch.equal(found, lost)
        return "no embedding" if is_b else found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EmbeddingStore, "of", lose_b)
        patch.setattr("basicsr.evaluation.loading.MAX_BATCH", 1)
        result = judged(Sources({"run": run}, gt), judge)
    assert [str(failure) for failure in result.failures] == ["b [run]: restored: no embedding"]
    assert result.common_names("ids_judge") == ["a", "c", "d"]
    assert result.common_names("psnr") == list(NAMES)
    assert np.allclose(
        result.values_of("run", "ids_judge"), np.delete(whole.values_of("run", "ids_judge"), 1), atol=1e-6
    )


def test_nan_is_a_failure_with_the_name_of_the_figure_and_no_value(
    tmp_path: Path, judge: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, gt = faces(tmp_path / "run", 1), faces(tmp_path / "gt", 2)
    plain = PSNRMetric.compare

    def broken(self: PSNRMetric, restored: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        values = plain(self, restored, reference)
        values[0] = float("nan")
        return values

    monkeypatch.setattr(PSNRMetric, "compare", broken)
    result = judged(Sources({"run": run}, gt), judge)
    assert [str(failure) for failure in result.failures] == ["a [run]: psnr is NaN"]
    assert result.common_names("psnr") == ["b", "c", "d"]


def test_each_content_is_embedded_once_whatever_it_is_called(
    tmp_path: Path, judge: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gt, run = faces(tmp_path / "gt", 1), faces(tmp_path / "run", 2)
    lq, ref = faces(tmp_path / "lq", 2), faces(tmp_path / "ref", 1, ("b", "a", "c", "d"))  # copies, in another order
    seen: list[int] = []
    plain = Judge.embed

    def counting(self: Judge, images: torch.Tensor) -> list[torch.Tensor | str]:
        seen.append(len(images))
        return plain(self, images)

    monkeypatch.setattr(Judge, "embed", counting)
    result = judged(Sources({"run": run, "again": run}, gt, {ANY_RUN: ref}, lq), judge)
    assert sum(seen) == 8
    assert np.allclose(result.values_of("run", "ids_lq_judge"), 1, atol=1e-6)


def test_a_run_that_was_given_the_ground_truth_as_reference_is_labelled(tmp_path: Path, judge: Path) -> None:
    run, gt, ref = faces(tmp_path / "run", 1), faces(tmp_path / "gt", 2), faces(tmp_path / "ref", 3)
    copies = faces(tmp_path / "copies", 2)  # other files, the same pixels
    sources = Sources({"fair": run, "oracle": run}, gt, {"fair": ref, "oracle": copies})
    assert judged(sources, judge).labels == [
        "given the ground truth as reference, a bound and no result: oracle (4 pictures)"
    ]


def test_a_mask_says_where_the_face_is_and_a_missing_one_is_named(tmp_path: Path, judge: Path) -> None:
    run, gt = faces(tmp_path / "run", 1), faces(tmp_path / "gt", 2)
    mask = np.zeros((SIDE, SIDE, 3), np.uint8)
    mask[5:20, 8:30] = 255
    for name in ("a", "b", "c"):
        imwrite(tmp_path / "mask" / f"{name}.png", mask)
    result = judged(Sources({"run": run}, gt, masks=tmp_path / "mask"), judge)
    metric = FacePSNRMetric(with_masks=True)
    images = [img2tensor(imread(folder / "a.png"))[None] for folder in (run, gt)]
    inside = torch.from_numpy(mask[None, ..., 0] > 0)
    expected = metric.compare(images[0], metric.reference(images[1], inside)).item()
    assert result.values["run"]["psnr_face"]["a"] == pytest.approx(expected, abs=1e-4)
    assert "mask of the face" in next(f.protocol for f in result.figures if f.key == "psnr_face")
    assert [failure.name for failure in result.failures] == ["d", "d"]
    assert "mask" in result.failures[0].reason


def test_the_threshold_lets_no_more_impostors_pass_than_its_rate_and_is_the_smallest_such() -> None:
    impostor = np.random.default_rng(0).normal(0, 0.1, 5000).astype(np.float32)
    threshold = threshold_at(impostor, 1e-3)
    assert (impostor > threshold).sum() == 5
    assert (impostor >= threshold).sum() == 6


def test_people_give_genuine_and_impostor_pairs(rng: np.random.Generator) -> None:
    people = drawn_people(rng, 40, spread=0.3, num_photos=3, width=16)
    found = calibrate_people("judge", people)
    assert not isinstance(found, str)
    assert (found.num_genuine, found.num_impostor) == (40 * 3, 120 * 119 // 2 - 120)
    assert found.genuine_mean > 0.8 > found.threshold > found.impostor_mean
    few = calibrate_people("judge", {"a": people["0"], "b": people["1"]})
    assert isinstance(few, str)
    assert "9 of two; at least 2 and 1000 are needed" in few


def test_faces_below_the_threshold_of_given_pairs_are_counted_as_not_recognised(tmp_path: Path, judge: Path) -> None:
    run, gt = faces(tmp_path / "run", 1), faces(tmp_path / "gt", 2)
    many = tuple(str(i) for i in range(46))
    faces(tmp_path / "people", 3, many)
    rows = [f"people/{a}.png,people/{b}.png,0" for i, a in enumerate(many) for b in many[:i]]
    rows += [f"people/{a}.png,people/{a}.png,1" for a in many[:2]]
    (tmp_path / "pairs.csv").write_text("a,b,same\n" + "\n".join(rows) + "\n")
    result = judged(Sources({"run": run}, gt), judge, calibration_pairs=tmp_path / "pairs.csv")
    (calibration,) = result.calibrations
    assert (calibration.num_impostor, calibration.tar) == (46 * 45 // 2, 1.0)
    expected = result.values_of("run", "ids_judge") <= calibration.threshold
    assert result.values_of("run", "miss_judge").tolist() == expected.astype(float).tolist()
    (tmp_path / "pairs.csv").write_text("a,b,same\npeople/0.png,people/1.png,maybe\n")
    with pytest.raises(UserError, match=r"pairs\.csv:2: same is 'maybe'"):
        judged(Sources({"run": run}, gt), judge, calibration_pairs=tmp_path / "pairs.csv")


class Colors(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def test_fid_is_that_of_all_pictures_of_a_run_against_those_of_the_ground_truth(tmp_path: Path, judge: Path) -> None:
    run, gt = faces(tmp_path / "run", 1), faces(tmp_path / "gt", 2)
    torch.jit.trace(Colors(), torch.zeros(1, 3, 8, 8)).save(str(tmp_path / "net.pt"))
    sources = Sources({"run": run, "same": gt}, gt)
    result = judged(sources, judge, metrics=["fid"], fid_network=tmp_path / "net.pt", fid_side=SIDE)
    assert [figure.label for figure in result.set_figures] == ["FID (GT)"]
    assert result.set_values["same"]["fid_GT"] == pytest.approx(0, abs=1e-6)
    means = [batch(folder).mean((2, 3)).numpy() for folder in (run, gt)]
    moments = [moment for m in means for moment in (m.mean(0), np.cov(m, rowvar=False))]
    assert result.set_values["run"]["fid_GT"] == pytest.approx(frechet_distance(*moments), rel=1e-3)


def test_identities_and_slices_come_from_one_index(tmp_path: Path, judge: Path) -> None:
    run, gt = faces(tmp_path / "run", 1), faces(tmp_path / "gt", 2)
    lines = [f"gt/{name}.png,p{i},test,{10 * i}" for i, name in enumerate(NAMES)]
    (tmp_path / "index.csv").write_text("path,identity,split,yaw\n" + "\n".join(lines) + "\n")
    result = judged(replace(Sources({"run": run}, gt), identities=tmp_path / "index.csv"), judge)
    assert [dict(pair.attributes) for pair in result.pairs] == [{"yaw": str(10 * i)} for i in range(4)]
