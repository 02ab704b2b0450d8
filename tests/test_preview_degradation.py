"""The preview: a grid of every photo's draws, the same for the same seed, and a CSV that says what was drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import preview_degradation
import pytest
import yaml
from toy_run import stage_options

from basicsr.utils.csv_util import read_rows
from basicsr.utils.errors import OptionError, UserError
from basicsr.utils.img_util import imread


def option_file(folder: Path, stage: int, **train: Any) -> str:
    plain = stage_options(stage, folder)
    plain["datasets"]["train"] |= train
    (folder / "opt.yml").write_text(yaml.safe_dump(plain))
    return str(folder / "opt.yml")


def preview(folder: Path, opt: str, *more: str) -> Path:
    out = folder / f"grid{len(list(folder.glob('grid*.png')))}.png"
    assert preview_degradation.main(["-opt", opt, "--out", str(out), "--rows", "2", "--draws", "3", *more]) == 0
    return out


def test_the_grid_holds_gt_draws_and_references_and_the_csv_says_what_was_drawn(tmp_path):
    out = preview(tmp_path, option_file(tmp_path, 3), "--tile", "32")
    rows = [row for _, row in read_rows(out.with_suffix(".csv"))]
    assert [(row["row"], row["copy"], row["draw"]) for row in rows[:6]] == [
        ("1", copy, draw) for draw in "012" for copy in ("lq", "lq_large")
    ]
    assert len(rows) == 12
    assert len({row["noise_seed"] for row in rows}) == 12
    assert {row["kernel"] for row in rows} <= {"iso", "aniso"}
    height, width = imread(out).shape[:2]
    assert (width - 6) % 38 == 0
    assert (width - 6) // 38 >= 1 + 2 * 3 + 1  # gt, three draws of two copies, a reference or more
    assert height == 6 + 2 * (32 + 6 + 4 * 13)


def test_the_same_seed_gives_the_same_files_and_another_gives_others(tmp_path):
    opt = option_file(tmp_path, 2)
    one, again, other = (preview(tmp_path, opt, "--seed", seed) for seed in ("1", "1", "2"))
    assert one.read_bytes() == again.read_bytes()
    assert one.with_suffix(".csv").read_text() == again.with_suffix(".csv").read_text()
    assert one.with_suffix(".csv").read_text() != other.with_suffix(".csv").read_text()


def test_stage_one_shows_its_ground_truths_alone(tmp_path):
    out = preview(tmp_path, option_file(tmp_path, 1, degradation=None))
    assert imread(out).shape[1] == 160 + 2 * 6
    assert not out.with_suffix(".csv").exists()


def test_what_cannot_be_shown_is_one_line(tmp_path):
    with pytest.raises(UserError, match="--rows is 0, expected at least 1"):
        preview_degradation.main(["-opt", "none.yml", "--out", "grid.png", "--rows", "0"])
    plain = stage_options(2, tmp_path)
    del plain["datasets"]["train"]
    (tmp_path / "none.yml").write_text(yaml.safe_dump(plain))
    with pytest.raises(OptionError, match="no training set"):
        preview_degradation.main(["-opt", str(tmp_path / "none.yml"), "--out", str(tmp_path / "grid.png")])
