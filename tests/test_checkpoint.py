"""Checkpoints: BasicSR's layout, the last good one, retention, and errors that say what to do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_run import build, parse, run, stage_options

from basicsr.engine.trainer import Trainer
from basicsr.utils.errors import UserError, WeightsError
from basicsr.utils.weights import load_file


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished toy stage I: checkpoints after iterations 2 and 4."""
    folder = tmp_path_factory.mktemp("toy")
    run(stage_options(1, folder), folder)
    return folder


def test_the_files_have_basicsrs_layout_and_carry_the_network_they_are_for(toy: Path) -> None:
    folder = toy / "experiments" / "toy1"
    names = {path.name for path in (folder / "models").iterdir()}
    assert names == {f"net_{which}_{label}.pth" for which in "gd" for label in ("2", "4", "latest")}
    contents = load_file(folder / "models" / "net_g_4.pth")
    assert contents.keys() == {"params", "params_ema", "network_g"}
    assert contents["network_g"]["type"] == "VQAutoEncoder"
    assert contents["network_g"]["model_path"] is None
    assert load_file(folder / "training_states" / "4.state")["iter"] == 4


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero_filled(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def of_other_keys(path: Path) -> None:
    torch.save({"params": {"other.weight": torch.zeros(3)}}, path)


def of_another_shape(path: Path) -> None:
    contents = load_file(path)
    name = next(iter(contents["params"]))
    contents["params"][name] = torch.zeros(7)
    torch.save(contents, path)


def without_a_moment(path: Path) -> None:
    contents = load_file(path)
    del contents["optimizers"]["g"]["state"][0]["exp_avg_sq"]
    torch.save(contents, path)


def with_a_moment_of_another_shape(path: Path) -> None:
    contents = load_file(path)
    contents["optimizers"]["d"]["state"][0]["exp_avg"] = torch.zeros(5)
    torch.save(contents, path)


def copied(toy: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(toy / "experiments" / "toy1", folder)
    return folder


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("models/net_g_4.pth", cut_off),
        ("models/net_g_4.pth", zero_filled),
        ("models/net_g_4.pth", of_other_keys),
        ("models/net_g_4.pth", of_another_shape),
        ("models/net_d_4.pth", cut_off),
        ("models/net_d_4.pth", Path.unlink),
        ("training_states/4.state", cut_off),
        ("training_states/4.state", zero_filled),
        ("training_states/4.state", of_other_keys),
        ("training_states/4.state", without_a_moment),
        ("training_states/4.state", with_a_moment_of_another_shape),
    ],
)
def test_auto_resume_passes_over_a_checkpoint_that_is_not_whole(
    toy: Path, tmp_path: Path, file: str, damage: Callable[[Path], None]
) -> None:
    folder = copied(toy, tmp_path)
    damage(folder / file)
    options = parse(stage_options(1, toy), toy)
    trainer = Trainer(options, build(options), folder, auto_resume=True)
    assert trainer.resumed == folder / "training_states" / "2.state"
    assert trainer.state.current_iter == 2
    expected = load_file(folder / "models" / "net_g_2.pth")["params"]
    assert all(torch.equal(expected[name], value) for name, value in trainer.stage.net_g.state_dict().items())


def test_auto_resume_takes_the_newest_and_begins_where_there_is_none(toy: Path, tmp_path: Path) -> None:
    options = parse(stage_options(1, toy), toy)
    trainer = Trainer(options, build(options), copied(toy, tmp_path), auto_resume=True)
    assert trainer.state.current_iter == 4
    fresh = Trainer(options, build(options), tmp_path / "empty", auto_resume=True)
    assert fresh.resumed is None


def test_auto_resume_refuses_to_begin_anew_where_all_checkpoints_are_broken(toy: Path, tmp_path: Path) -> None:
    folder = copied(toy, tmp_path)
    for number in (2, 4):
        zero_filled(folder / "models" / f"net_g_{number}.pth")
    options = parse(stage_options(1, toy), toy)
    with pytest.raises(UserError, match=r"no checkpoint there can be resumed; of the newest: .*net_g_4\.pth"):
        Trainer(options, build(options), folder, auto_resume=True)


def test_the_options_of_the_optimiser_hold_after_a_resume(toy: Path) -> None:
    plain = stage_options(1, toy, optim_g={"type": "Adam", "lr": 1e-3, "betas": [0.5, 0.6]})
    options = parse(plain, toy)
    trainer = Trainer(options, build(options), toy / "experiments" / "toy1", auto_resume=True)
    assert trainer.state.optimizers["g"].param_groups[0]["betas"] == (0.5, 0.6)
    moments = trainer.state.optimizers["g"].state_dict()["state"][0]["exp_avg"]
    saved = load_file(toy / "experiments" / "toy1" / "training_states" / "4.state")["optimizers"]["g"]["state"][0]
    assert torch.equal(moments, saved["exp_avg"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizers": [{}]}, "'optimizers' is a list, expected a dict"),
        ({"best": None}, "'best' is a NoneType"),
        ({"optimizers": {"g": {}, "d": {}}}, "optimiser 'g' does not fit"),
        ({"rng": [{}]}, "its random state does not fit"),
    ],
)
def test_a_foreign_state_is_one_line(toy: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(toy / "experiments" / "toy1", folder)
    state = folder / "training_states" / "4.state"
    torch.save(load_file(state) | change, state)
    options = parse(stage_options(1, toy), toy)
    with pytest.raises(WeightsError, match=message) as caught:
        Trainer(options, build(options), folder, state)
    assert "\n" not in str(caught.value)


def test_only_the_newest_checkpoints_are_kept(toy: Path) -> None:
    plain = stage_options(1, toy, total_iter=5)
    plain |= {"name": "kept", "logger": {**plain["logger"], "save_checkpoint_freq": 1, "keep_last": 2}}
    trainer = run(plain, toy)
    assert sorted(p.stem for p in trainer.checkpoints.states.iterdir()) == ["4", "5"]
    numbered = {p.name for p in trainer.checkpoints.models.glob("net_g_*.pth")}
    assert numbered == {"net_g_4.pth", "net_g_5.pth", "net_g_latest.pth"}


def test_every_kth_checkpoint_stays_beside_the_newest(toy: Path) -> None:
    plain = stage_options(1, toy, total_iter=7)
    plain |= {
        "name": "every",
        "logger": {**plain["logger"], "save_checkpoint_freq": 1, "keep_last": 1, "keep_every": 3},
    }
    trainer = run(plain, toy)
    assert sorted(p.stem for p in trainer.checkpoints.states.iterdir()) == ["3", "6", "7"]
    assert {p.stem for p in trainer.checkpoints.models.glob("net_d_[0-9].pth")} == {"net_d_3", "net_d_6", "net_d_7"}


def test_what_a_killed_run_was_writing_is_removed_by_the_next_one(toy: Path) -> None:
    plain = stage_options(1, toy, total_iter=2) | {"name": "unfinished"}
    folder = toy / "experiments" / "unfinished" / "models"
    folder.mkdir(parents=True)
    (folder / ".net_g_2.pth.123.tmp").write_bytes(b"half")
    run(plain, toy)
    assert not list(folder.glob(".*"))


def test_training_goes_on_with_the_trained_weights_not_with_the_average(toy: Path) -> None:
    options = parse(stage_options(1, toy), toy)
    folder = toy / "experiments" / "toy1"
    trainer = Trainer(options, build(options), toy / "experiments" / "again", folder / "training_states" / "2.state")
    saved = load_file(folder / "models" / "net_g_2.pth")
    key = "encoder.blocks.0.weight"
    assert torch.equal(trainer.stage.net_g.state_dict()[key], saved["params"][key])
    assert trainer.state.ema is not None
    assert torch.equal(trainer.state.ema.net.state_dict()[key], saved["params_ema"][key])
    assert not torch.equal(saved["params"][key], saved["params_ema"][key])


def test_resuming_with_other_options_says_so(toy: Path) -> None:
    plain = stage_options(1, toy, gan_opt=None, optim_d=None)
    plain |= {"network_d": None, "name": "other"}
    options = parse(plain, toy)
    state = toy / "experiments" / "toy1" / "training_states" / "2.state"
    with pytest.raises(WeightsError, match="optimisers"):
        Trainer(options, build(options), toy / "experiments" / "other", state)


@pytest.mark.parametrize(("first", "then"), [("Adam", "SGD"), ("SGD", "Adam")])
def test_resuming_with_another_kind_of_optimiser_is_refused(toy: Path, first: str, then: str) -> None:
    momentum = {"momentum": 0.9} if first == "SGD" else {}  # without it there is nothing to lose
    plain = stage_options(1, toy, total_iter=2, optim_g={"type": first, "lr": 1e-3, **momentum}) | {
        "name": f"{first}_{then}"
    }
    run(plain, toy)
    options = parse({**plain, "train": {**plain["train"], "optim_g": {"type": then, "lr": 1e-3}}}, toy)
    state = toy / "experiments" / plain["name"] / "training_states" / "2.state"
    with pytest.raises(WeightsError, match=f"optimiser 'g' does not fit .*another kind of optimiser than {then}"):
        Trainer(options, build(options), toy / "experiments" / plain["name"], state)
