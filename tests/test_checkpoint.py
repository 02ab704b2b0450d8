"""Checkpoints: BasicSR's layout, the last good one, retention, and errors that say what to do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_run import build, parse, run, stage_options

from basicsr.engine.checkpoint import Checkpoints
from basicsr.engine.trainer import Trainer
from basicsr.utils.errors import WeightsError
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


def test_a_cut_off_checkpoint_is_passed_over_for_the_last_good_one(toy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(toy / "experiments" / "toy1", folder)
    checkpoints = Checkpoints(folder, {})
    last = checkpoints.last()
    assert last is not None
    assert last.name == "4.state"
    whole = (folder / "models" / "net_g_4.pth").read_bytes()
    (folder / "models" / "net_g_4.pth").write_bytes(whole[: len(whole) // 2])
    last = checkpoints.last()
    assert last is not None
    assert last.name == "2.state"
    (folder / "training_states" / "2.state").write_bytes(b"")
    assert checkpoints.last() is None


@pytest.mark.parametrize("damage", ["broken", "missing"])
def test_a_checkpoint_whose_discriminator_is_lost_is_passed_over(toy: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(toy / "experiments" / "toy1", folder)
    file = folder / "models" / "net_d_4.pth"
    if damage == "broken":
        file.write_bytes(file.read_bytes()[:100])
    else:
        file.unlink()
    last = Checkpoints(folder, {}).last()
    assert last is not None
    assert last.name == "2.state"


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
