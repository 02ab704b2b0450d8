"""Validation while training: its figures, the checkpoints it keeps, its pictures, and what it says about its judge."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_run import DEGRADATION, SIZE, build, parse, run, stage_options

from basicsr.engine.trainer import Trainer
from basicsr.engine.validator import picture_grid
from basicsr.metrics.psnr_ssim_metric import PSNRMetric
from basicsr.utils.img_util import imread
from basicsr.utils.weights import load_file


def with_validation(stage: int, folder: Path, **val: Any) -> dict[str, Any]:
    """A toy stage that validates every second iteration on the split val: 3 photos of one person."""
    plain = stage_options(stage, folder)
    index = str(folder / "faces" / "index.csv")
    plain["datasets"]["val_toy"] = {"type": "FFHQBlindDataset", "source": index, "split": "val", "gt_size": SIZE}
    plain["val"] = {"val_freq": 2, "metrics": {"psnr": {"type": "PSNRMetric"}}, **val}
    return plain


def test_the_figure_is_the_mean_over_the_set_with_the_averaged_weights(tmp_path: Path) -> None:
    trainer = run(with_validation(1, tmp_path), tmp_path)
    lines = [json.loads(line) for line in trainer.log.path.read_text().splitlines()]
    figures = {line["iter"]: line["val_toy/psnr"] for line in lines if "val_toy/psnr" in line}
    assert figures.keys() == {2, 4}
    assert trainer.validator is not None
    assert trainer.state.ema is not None
    metric = PSNRMetric()
    for batch in trainer.validator.loaders["val_toy"]:
        metric.update(trainer.stage.restore(batch, trainer.state.ema.net.eval()), batch["gt"])
    assert len(metric.values()) == 3
    assert figures[4] == pytest.approx(metric.compute(), abs=1e-5)


def test_the_best_checkpoint_is_that_of_the_best_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = parse(with_validation(1, tmp_path), tmp_path)
    trainer = Trainer(options, build(options), tmp_path / "run")
    assert trainer.validator is not None
    values = iter([30.0, 20.0])  # the first validation, after iteration 2, is the better one
    monkeypatch.setattr(trainer.validator, "run", lambda *_: {"val_toy/psnr": next(values)})
    trainer.run()
    models = tmp_path / "run" / "models"
    best, second = (load_file(models / f"net_g_{label}.pth") for label in ("best_val_toy_psnr", "2"))
    assert all(torch.equal(value, second["params_ema"][key]) for key, value in best["params_ema"].items())
    assert load_file(tmp_path / "run" / "training_states" / "4.state")["best"] == {"val_toy/psnr": 30.0}


def test_saved_pictures_of_photos_with_equal_names_stay_apart(tmp_path: Path) -> None:
    plain = with_validation(1, tmp_path, save_img=True)
    index = tmp_path / "faces" / "index.csv"
    for person in ("a", "b"):
        (index.parent / person).mkdir()
        (index.parent / person / "1.png").write_bytes((index.parent / "3_0.png").read_bytes())
    index.write_text(index.read_text() + "a/1.png,a,val\nb/1.png,b,val\n")
    run(plain, tmp_path)
    folder = tmp_path / "experiments" / "toy1" / "visualization" / "val_toy"
    names = sorted(path.name for path in folder.glob("*_4.png"))
    assert names == [f"0000{n}_{stem}_4.png" for n, stem in enumerate(["3_0", "3_1", "3_2", "1", "1"])]
    assert imread(folder / names[0]).shape[0] == SIZE


def test_the_grid_has_lq_reference_restored_and_gt_side_by_side() -> None:
    parts = [torch.full((2, 3, 4, 4), value) for value in (-1.0, -0.5, 0.5, 1.0)]
    batch = {"lq": parts[0], "refs": parts[1].unsqueeze(1), "gt": parts[3]}
    grid = picture_grid(batch, parts[2], num_rows=4)
    assert grid.shape == (3, 8, 16)
    assert grid[0, 0, ::4].tolist() == [0, 64, 191, 255]


def test_a_judge_that_also_trains_is_named_before_every_figure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(stage_options(1, tmp_path, total_iter=1), tmp_path)
    plain = with_validation(2, tmp_path) | {"allow_same_recognizer": True}
    plain["datasets"]["val_toy"]["degradation"] = DEGRADATION
    plain["val"]["metrics"] = {"ids": {"type": "IdentityMetric", "recognizer": plain["network_identity"]["path"]}}
    with caplog.at_level(logging.INFO, logger="basicsr"):
        run(plain, tmp_path)
    lines = [record.getMessage() for record in caplog.records if record.name == "basicsr.engine.validator"]
    assert sum("val.metrics.ids is IDS (recognizer" in line for line in lines) == 2
    assert sum("val.metrics.ids: its recogniser also trains" in line for line in lines) == 2


def test_the_sweep_shows_the_first_pictures_at_each_w(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(stage_options(1, tmp_path, total_iter=1), tmp_path)
    plain = with_validation(2, tmp_path, w_sweep=[0, 0.25, 1], num_images=2)
    plain["datasets"]["val_toy"]["degradation"] = DEGRADATION
    plain["datasets"]["val_toy"]["batch_size_per_gpu"] = 2
    options = parse(plain, tmp_path)
    trainer = Trainer(options, build(options), tmp_path / "sweep")
    pictures: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(trainer.log, "picture", lambda number, name, image: pictures.setdefault(name, image))
    trainer.run()
    assert pictures["val_toy/lq_ref_restored_gt"].shape == (3, 2 * SIZE, 3 * SIZE)
    sweep = pictures["val_toy/lq_ref_w_0_0.25_1_gt"]
    assert sweep.shape == (3, 2 * SIZE, 5 * SIZE)
    lq, gt = sweep[..., :SIZE], sweep[..., -SIZE:]
    assert torch.equal(lq, pictures["val_toy/lq_ref_restored_gt"][..., :SIZE])
    assert torch.equal(gt, pictures["val_toy/lq_ref_restored_gt"][..., -SIZE:])


def test_tensorboard_has_curves_and_pictures_under_their_names(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plain = with_validation(1, tmp_path)
    plain["logger"] |= {"use_tb_logger": True, "image_freq": 2}
    trainer = run(plain, tmp_path)
    events = EventAccumulator(str(trainer.folder / "tb_logger"))
    events.Reload()
    tags = events.Tags()
    curves = {"losses/l_g_pix", "lr_g", "val_toy/psnr", "speed/images_per_s", "speed/data_share", "speed/eta_s"}
    assert curves <= set(tags["scalars"])
    assert {"train/lq_ref_restored_gt", "val_toy/lq_ref_restored_gt"} <= set(tags["images"])
    assert [event.step for event in events.Scalars("losses/l_g_pix")] == [1, 2, 3, 4]
