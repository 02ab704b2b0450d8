"""The checks of a GPU, tried without one: a dry run on the CPU with toy networks, and what they would refuse."""

from __future__ import annotations

import json
from pathlib import Path

import _training_check
import gpu_check
import pytest
import torch


@pytest.mark.slow
def test_a_dry_run_on_the_cpu_checks_all_three_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu_check.json"
    arguments = ["--device", "cpu", "--toy", "--size", "32", "--steps", "4", "--batch_size", "2", "--out", str(out)]
    assert gpu_check.main(arguments) == 0
    report = json.loads(out.read_text())
    assert [row["stage"] for row in report["stages"]] == [1, 2, 3]
    for row in report["stages"]:
        assert row["resume_difference"] == 0.0
        assert 0 < row["loss_difference"] < _training_check.LOSS_TOLERANCE, "bf16 rounds"
        assert row["images_per_second_fast"] > 0
    assert capsys.readouterr().out.count("| good |") == 3


def test_without_a_device_it_says_so_and_leaves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main([]) == 0
    assert "skipped: no CUDA device" in capsys.readouterr().out


def test_the_difference_of_losses_leaves_the_gan_out_and_looks_at_the_end() -> None:
    expected = [{"l_g_pix": 9.0, "l_g_gan": 1.0}] * 3 + [{"l_g_pix": 2.0, "l_g_gan": 5.0}]
    found = [{"l_g_pix": 1.0, "l_g_gan": 1.0}] * 3 + [{"l_g_pix": 2.5, "l_g_gan": -5.0}]
    assert _training_check.loss_difference(expected, found) == pytest.approx(0.25)
