"""--fast-forward: it visits what a run will come to, fails where the run would fail, and keeps nothing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_run import build, parse, run, stage_options, write_options

from basicsr.engine.fast_forward import fast_forward, visits
from basicsr.train import main
from basicsr.utils.errors import OptionError

CODES = {"lq": "large", "code_only": True}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    run(stage_options(1, folder, total_iter=2), folder)
    return folder


def upstream_like(toy: Path, **train: Any) -> dict[str, Any]:
    """Stage III with the released phases, a hundred times shorter, and L_ids every fourth time."""
    schedule = [
        {"until": 400},
        {"until": 800, "w": 1.3},
        {"until": 0.8, **CODES},
        {"until": None, "w": [0.5, 1.3], "every": 15, "otherwise": CODES},
    ]
    identity = {"every": 4, "batch_part": 0.5}
    given = {"total_iter": 1_500, "schedule": schedule, "net_d_start_iter": 51, "identity_opt": identity}
    return stage_options(3, toy, **{**given, **train})


def test_first_and_last_of_every_phase_and_of_what_is_special_in_it_are_visited(toy: Path) -> None:
    stage = build(parse(upstream_like(toy), toy))
    numbers = visits(stage, 1_500)
    borders = {1, 400, 401, 800, 801, 1_200, 1_201, 1_500}
    start_of_d = {51, 52}  # the last without it that is no multiple of 4, and the first with it
    first_with_l_ids = {4, 404, 804, 1_204}
    on_the_fifteenth = {1_215, 1_260, 1_500}  # the second with L_ids, too
    assert borders | start_of_d | first_with_l_ids | on_the_fifteenth <= set(numbers)
    assert len(numbers) < 40


@pytest.mark.parametrize("stage_number", [1, 2, 3])
def test_every_stage_is_run_through_and_nothing_is_kept(
    toy: Path, stage_number: int, caplog: pytest.LogCaptureFixture
) -> None:
    plain = stage_options(stage_number, toy, total_iter=50) if stage_number < 3 else upstream_like(toy)
    plain["val"] = {"val_freq": 1, "metrics": {"psnr": {"type": "PSNRMetric"}}}
    plain["datasets"]["val"] = {**plain["datasets"]["train"], "use_hflip": False}
    before = sorted((toy / "experiments").rglob("*"))
    with caplog.at_level(logging.INFO):
        assert main(["-opt", str(write_options({**plain, "name": "ahead"}, toy)), "--fast-forward"]) == 0
    assert sorted((toy / "experiments").rglob("*")) == before
    lines = [record.getMessage() for record in caplog.records]
    visited = [line for line in lines if line.startswith("iteration ")]
    assert visited[0].startswith("iteration 1 (")
    assert visited[-1].startswith("iteration 1500" if stage_number == 3 else "iteration 50 (")
    assert all("l_g_" in line for line in visited[:-1]), "each line has its losses"
    assert any("validation" in line and "val/psnr" in line for line in lines)
    assert "Nothing is kept" in lines[-1]
    if stage_number == 3:
        assert any(line.startswith("iteration 1200 (phase 3: large, codes alone, L_ids)") for line in visited)


def test_a_phase_that_cannot_run_is_found_at_its_first_iteration(toy: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = upstream_like(toy)
    del plain["datasets"]["train"]["degradation_large"]
    with pytest.raises(OptionError, match="degradation_large"):
        fast_forward(parse(plain, toy), torch.device("cpu"))
    assert "iteration 801 (phase 3: large, codes alone) fails" in caplog.text
    assert not list((toy / "experiments").glob(".fast_forward*"))


def test_an_error_of_the_program_is_named_with_its_iteration_and_not_hidden(
    toy: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from basicsr.models.id_codeformer_joint_model import IDCodeFormerJointModel

    compute = IDCodeFormerJointModel.generator_losses

    def crashing(stage: IDCodeFormerJointModel, batch: Any, current_iter: int) -> Any:
        if current_iter == 1_200:  # as the released code does at 120 000
            raise RuntimeError("One of the differentiated Tensors appears to not have been used in the graph")
        return compute(stage, batch, current_iter)

    monkeypatch.setattr(IDCodeFormerJointModel, "generator_losses", crashing)
    with pytest.raises(RuntimeError, match="differentiated"):
        fast_forward(parse(upstream_like(toy), toy), torch.device("cpu"))
    assert "iteration 1200" in caplog.text
