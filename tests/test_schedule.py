"""The schedule of stage III: upstream's table, shares of a run, losses that a phase scales or turns off."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from toy_run import build, parse, run, stage_options

from basicsr.config import parse_options
from basicsr.engine.loaders import build_dataset, train_loader
from basicsr.models.id_codeformer_joint_model import IDCodeFormerJointModel
from basicsr.models.schedule import Phase, Step, phase_at, resolve_schedule
from basicsr.utils.errors import OptionError

ROOT = Path(__file__).resolve().parent.parent

for package in ("archs", "data", "losses", "metrics", "models"):
    importlib.import_module(f"basicsr.{package}")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    run(stage_options(1, folder, total_iter=2), folder)
    return folder


def stage_three(toy: Path, **train: Any) -> Any:
    """A toy stage III."""
    stage = build(parse(stage_options(3, toy, **train), toy))
    assert isinstance(stage, IDCodeFormerJointModel)
    return stage


def one_batch(toy: Path) -> Any:
    train_set = parse(stage_options(3, toy), toy).datasets["train"]
    return next(iter(train_loader(build_dataset(train_set), train_set, 0, 0)))


@pytest.mark.parametrize("file", ["upstream/stage3.yml", "stage3_id.yml"])
def test_the_shipped_stage_iii_does_what_upstreams_table_says(file: str) -> None:
    train = parse_options(ROOT / "options" / file, check_files=False).training()[0]
    schedule = resolve_schedule(msgspec.convert(train.stage["schedule"], list[Phase]), train.total_iter)
    small, strong, codes = ("small", 1.0, False), ("small", 1.3, False), ("large", None, True)
    table = {
        1: small, 40_000: small, 40_001: strong, 80_000: strong, 80_001: codes, 119_999: codes,
        # the iteration at which the released schedule crashes belongs to the phase that it ends
        120_000: codes,
        120_001: codes, 120_015: strong, 150_000: strong,
    }  # fmt: skip
    for current_iter, expected in table.items():
        step = schedule[phase_at(schedule, current_iter)].step_at(current_iter)
        found = (step.lq, None if step.code_only else step.w, step.code_only)
        assert found == expected, current_iter
    assert train.total_iter == 150_000


def test_phases_by_share_end_where_the_same_phases_by_iteration_end_and_both_kinds_mix() -> None:
    phases = [Phase(until=0.25), Phase(until=50), Phase(until=0.8), Phase()]
    assert [phase.until for phase in resolve_schedule(phases, 100)] == [25, 50, 80, None]
    assert [phase.until for phase in resolve_schedule([Phase(until=1.0)], 100)] == [100]
    assert [phase.until for phase in resolve_schedule([Phase(until=1)], 100)] == [1], "whole numbers are iterations"


@pytest.mark.parametrize(
    "schedule",
    [
        [],
        [Phase(until=None), Phase(until=5)],
        [Phase(until=5), Phase(until=5)],
        [Phase(until=0.5), Phase(until=0.2)],
        [Phase(until=60), Phase(until=0.5)],
        [Phase(until=1.5)],
        [Phase(until=0.0)],
        [Phase(until=0), Phase()],
        [Phase(every=3)],
        [Phase(every=0)],
        [Phase(every=2, otherwise=Step(w=-1.0))],
        [Phase(losses={"gan_opt": -0.5})],
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(schedule: list[Phase]) -> None:
    with pytest.raises(OptionError, match="schedule"):
        resolve_schedule(schedule, 100)


def test_a_loss_that_no_phase_can_name_is_refused_with_its_line(toy: Path) -> None:
    with pytest.raises(OptionError, match=r"train\.schedule.*pixl_opt.*\.yml:\d+"):
        parse(stage_options(3, toy, schedule=[{"losses": {"pixl_opt": 0}}]), toy)


def test_a_phase_scales_its_losses_and_leaves_out_those_with_factor_zero(toy: Path) -> None:
    batch = one_batch(toy)
    values = {}
    for name, factors in (("plain", {}), ("scaled", {"pixel_opt": 0.5, "code_opt": 3.0, "feat_opt": 0})):
        stage = stage_three(toy, gan_opt=None, schedule=[{"until": None, "losses": factors}])
        values[name], _ = stage.generator_losses(batch, 1)
    plain, scaled = values["plain"], values["scaled"]
    assert plain.keys() - scaled.keys() == {"l_g_feat"}
    torch.testing.assert_close(scaled["l_g_pix"], 0.5 * plain["l_g_pix"])
    torch.testing.assert_close(scaled["l_g_code"], 3 * plain["l_g_code"])


def test_a_phase_without_gan_and_identity_loss_trains_no_discriminator_and_decodes_for_no_l_ids(toy: Path) -> None:
    off = {"gan_opt": 0, "identity_opt": 0}
    schedule = [{"until": 2, "losses": off}, {"until": 4, "code_only": True, "losses": off}, {"until": None}]
    stage, batch = stage_three(toy, schedule=schedule), one_batch(toy)
    assert [stage.trains_discriminator(t) for t in (1, 2, 5)] == [False, False, True]
    losses, restored = stage.generator_losses(batch, 2)
    assert losses.keys() == {"l_g_code", "l_g_feat", "l_g_pix"}
    assert restored is not None
    assert stage.generator_losses(batch, 4)[0].keys() == {"l_g_code", "l_g_feat"}
    assert {"l_g_gan", "l_g_id"} <= stage.generator_losses(batch, 6)[0].keys(), "nothing of an earlier phase stays"


def test_the_factor_of_the_gan_loss_multiplies_the_adaptive_weight(toy: Path) -> None:
    batch = one_batch(toy)
    found = []
    for factor in (1.0, 0.25):
        stage = stage_three(toy, schedule=[{"until": None, "losses": {"gan_opt": factor}}])
        found.append(stage.generator_losses(batch, 1)[0]["l_g_gan"].item())
    assert found[1] == pytest.approx(0.25 * found[0], rel=1e-5)


def test_a_step_that_leaves_nothing_to_train_with_is_refused(toy: Path) -> None:
    nothing = {"code_opt": 0, "feat_opt": 0}
    schedule = [{"until": 2}, {"until": None, "lq": "large", "code_only": True, "losses": nothing}]
    with pytest.raises(OptionError, match=r"train\.schedule\.1.*leaves no loss.*code_opt, feat_opt"):
        stage_three(toy, schedule=schedule)


def test_phases_that_a_short_run_never_reaches_are_said(toy: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        stage_three(toy, schedule=[{"until": 40_000}, {"until": None}])
    assert "the run ends with iteration 4, in phase 1 of 2" in caplog.text
    caplog.clear()
    stage_three(toy, schedule=[{"until": 0.5}, {"until": None}])
    assert "the run ends" not in caplog.text
