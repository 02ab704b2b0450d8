"""Weights & Biases: what it is told, that it never ends a training, and what is said where it is missing."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from toy_run import build, parse, run, stage_options

from basicsr.engine.trainer import Trainer
from basicsr.utils.errors import OptionError


class FakeWandb(types.ModuleType):
    """The few names of the package that are used, which write down how they are called."""

    class errors:  # noqa: N801  the package's name
        class Error(Exception):
            pass

    def __init__(self, online: bool) -> None:
        super().__init__("wandb")
        self.online = online
        self.inits: list[dict[str, Any]] = []
        self.logged: list[dict[str, Any]] = []
        self.finished = 0
        self.metrics: list[tuple[str, str]] = []
        self.id = "run7"

    def init(self, **settings: Any) -> FakeWandb:
        self.inits.append(settings)
        if not self.online and settings.get("mode") != "offline":
            raise self.errors.Error("api_key not configured")
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        self.metrics.append((name, step_metric))

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def Image(self, picture: Any) -> tuple[int, ...]:  # noqa: N802  the package's name
        return tuple(picture.shape)

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> FakeWandb:
    fake = FakeWandb(online=getattr(request, "param", True))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: fake if name == "wandb" else found(name))
    return fake


def with_wandb(folder: Path, **train: Any) -> dict[str, Any]:
    plain = stage_options(1, folder, **train)
    plain["logger"] |= {"wandb": {"project": "faces"}, "image_freq": 2}
    return plain


def test_curves_pictures_and_options_go_there_and_a_resumed_run_goes_on_with_its_own(
    tmp_path: Path, wandb: FakeWandb
) -> None:
    plain = with_wandb(tmp_path)
    run(plain, tmp_path)
    assert wandb.inits[0]["project"] == "faces"
    assert wandb.inits[0]["id"] is None
    assert wandb.inits[0]["config"]["train"]["total_iter"] == 4
    assert wandb.metrics == [("*", "iter")]
    assert {point["iter"] for point in wandb.logged} == {1, 2, 3, 4}
    assert any("losses/l_g_pix" in point for point in wandb.logged)
    assert any("speed/images_per_s" in point for point in wandb.logged)
    assert (64, 64, 3) in [point.get("train/lq_ref_restored_gt") for point in wandb.logged]
    assert wandb.finished == 1
    run(plain, tmp_path, tmp_path / "experiments" / "toy1" / "training_states" / "2.state")
    assert wandb.inits[1]["id"] == "run7"


@pytest.mark.parametrize("wandb", [False], indirect=True)
def test_without_a_login_the_run_goes_on_offline(
    tmp_path: Path, wandb: FakeWandb, caplog: pytest.LogCaptureFixture
) -> None:
    run(with_wandb(tmp_path, total_iter=1), tmp_path)
    assert [settings.get("mode") for settings in wandb.inits] == [None, "offline"]
    assert "W&B cannot be used online (api_key not configured)" in caplog.text
    assert wandb.logged


def test_a_missing_package_is_named_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = parse(with_wandb(tmp_path), tmp_path)
    stage = build(options)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"logger\.wandb\.project: 'faces' .*pip install wandb"):
        Trainer(options, stage, tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_project_that_is_off_asks_for_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = with_wandb(tmp_path)
    plain["logger"]["wandb"] = {"project": None, "resume_id": None}  # as BasicSR's files have it
    options = parse(plain, tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert Trainer(options, build(options), tmp_path / "nothing").log.wandb is None
