"""The loop: exact resume, stopping by a signal, refusing a loss that is not finite, restarting the schedule of data."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_run import build, parse, run, stage_options, weights_of

from basicsr.engine.finite_guard import NonFiniteLossError
from basicsr.engine.gradient_steps import GradientSteps
from basicsr.engine.interrupts import EXIT_STOPPED
from basicsr.engine.trainer import Trainer
from basicsr.inference import FaceRestorer
from basicsr.models.base_model import BaseModel, Batch, Losses


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with toy data and the weights of a toy stage I."""
    folder = tmp_path_factory.mktemp("toy")
    run(stage_options(1, folder, total_iter=2), folder)
    return folder


@pytest.mark.parametrize(("stage", "train"), [(1, {}), (2, {}), (3, {}), (3, {"code_grad": "gumbel"})])
def test_two_iterations_stop_resume_and_two_more_equal_four_bit_for_bit(
    toy: Path, stage: int, train: dict[str, Any]
) -> None:
    plain = stage_options(stage, toy, **train)
    straight = run({**plain, "name": f"straight{stage}"}, toy)
    first = {**plain, "name": f"resumed{stage}"}
    first["train"] = {**plain["train"], "total_iter": 2}
    run(first, toy)
    state = toy / "experiments" / f"resumed{stage}" / "training_states" / "2.state"
    resumed = run({**plain, "name": f"resumed{stage}"}, toy, state)
    expected, found = weights_of(straight), weights_of(resumed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_a_resumed_run_reads_the_samples_that_come_next(toy: Path) -> None:
    paths: dict[str, list[str]] = {}
    for name, resume_from in (("straight", None), ("resumed", 2)):
        options = parse(stage_options(1, toy), toy)
        trainer = Trainer(options, build(options), toy / "order")
        trainer.state.current_iter = resume_from or 0
        trainer.state.samples = 2 * trainer.state.current_iter
        paths[name] = [path for batch in trainer._batches(4) for path in batch["gt_path"]]
    assert paths["straight"][4:] == paths["resumed"]


def test_sigterm_writes_a_checkpoint_and_leaves_with_its_code(toy: Path) -> None:
    options = parse({**stage_options(1, toy, total_iter=50), "name": "stopped"}, toy)
    stage = build(options)
    compute = stage.generator_losses

    def stop_in_the_third(batch: Batch, current_iter: int) -> Any:
        if current_iter == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return compute(batch, current_iter)

    stage.generator_losses = stop_in_the_third  # type: ignore[method-assign]
    folder = toy / "experiments" / "stopped"
    assert Trainer(options, stage, folder).run() == EXIT_STOPPED
    assert (folder / "training_states" / "3.state").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_loss_that_is_not_finite_stops_the_run_by_name_iteration_and_sample(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = parse({**stage_options(1, toy), "name": "nan"}, toy)
    stage = build(options)
    compute = stage.generator_losses

    def poisoned(batch: Batch, current_iter: int) -> tuple[Losses, torch.Tensor | None]:
        losses, restored = compute(batch, current_iter)
        if current_iter == 2:
            losses["l_g_pix"] = losses["l_g_pix"] * float("nan")
        return losses, restored

    stage.generator_losses = poisoned  # type: ignore[method-assign]
    before = {}
    iterate = GradientSteps.iterate

    def spy(self: GradientSteps, batch: Batch, current_iter: int) -> Any:
        for name, net in (("g", self.stage.net_g), ("d", self.stage.net_d)):
            assert net is not None
            before.update({f"{name}.{key}": value.clone() for key, value in net.state_dict().items()})
        return iterate(self, batch, current_iter)

    monkeypatch.setattr(GradientSteps, "iterate", spy)
    with pytest.raises(NonFiniteLossError, match=r"iteration 2: l_g_pix = nan.*\.png"):
        Trainer(options, stage, toy / "experiments" / "nan").run()
    assert stage.net_d is not None
    assert before, "the loop has not come here"
    for name, net in (("g", stage.net_g), ("d", stage.net_d)):
        after = {key: value for key, value in net.state_dict().items() if "num_batches" not in key}
        moments = {key for key in after if "running" in key}  # D has seen the pictures twice; they stay finite
        assert all(torch.equal(before[f"{name}.{key}"], after[key]) for key in after.keys() - moments)
        assert all(after[key].isfinite().all() for key in moments)


def test_the_recognizer_of_a_checkpoint_has_the_values_that_the_options_gave(toy: Path) -> None:
    plain = {**stage_options(2, toy, total_iter=1), "name": "values"}
    given = {"typical_norm": 7.5, "same_person_cosine": 0.25}
    plain["network_identity"] = plain["network_identity"] | given
    trainer = run(plain, toy)
    restorer = FaceRestorer(toy / "experiments/values/models/net_g_latest.pth", device="cpu")
    for recognizer in (trainer.stage.identity, restorer.recognizer):
        assert recognizer is not None
        assert {name: getattr(recognizer.spec, name) for name in given} == given


def test_the_log_holds_every_loss_of_every_printed_iteration(toy: Path) -> None:
    run({**stage_options(3, toy), "name": "logged"}, toy)
    lines = [json.loads(line) for line in (toy / "experiments" / "logged" / "metrics.jsonl").read_text().splitlines()]
    assert [line["iter"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        assert {"l_g_code", "l_g_feat", "code_top1", "code_top5", "lr_g"} <= line.keys()
    assert "l_g_pix" in lines[0]
    assert "l_g_pix" not in lines[2], "iteration 3 predicts codes alone"
    assert "l_g_id" in lines[1]
    assert "l_g_id" not in lines[0], "every: 2"


def test_frozen_networks_stay_frozen_and_in_eval_while_training(toy: Path) -> None:
    trainer = run({**stage_options(2, toy), "name": "frozen"}, toy)
    stage: BaseModel = trainer.stage
    before = torch.load(toy / "experiments/toy1/models/net_g_latest.pth", weights_only=True)["params_ema"]
    assert stage.vqgan is not None
    assert stage.identity is not None
    for net in (stage.vqgan, stage.identity):
        assert not any(module.training for module in net.modules())
        assert not any(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(before[key], value) for key, value in stage.vqgan.state_dict().items())
    assert torch.equal(before["quantize.embedding.weight"], stage.net_g.state_dict()["quantize.embedding.weight"])


@pytest.mark.parametrize("which", ["g", "d"])
def test_a_skipped_step_leaves_weights_average_and_optimiser_as_they_were(
    toy: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    options = parse({**stage_options(1, toy, skip_non_finite=2), "name": f"skip{which}"}, toy)
    stage, bad = build(options), {2, 3}
    trainer = Trainer(options, stage, toy / "experiments" / f"skip{which}")
    poison(stage, which, bad)
    iterate, moved = GradientSteps.iterate, {}

    def spy(self: GradientSteps, batch: Batch, current_iter: int) -> Any:
        before = snapshot(trainer)
        result = iterate(self, batch, current_iter)
        after = snapshot(trainer)
        moved[current_iter] = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
        return result

    monkeypatch.setattr(GradientSteps, "iterate", spy)
    assert trainer.run() == 0
    everything = {"g", "ema", "moments_g", "d", "moments_d"}
    assert moved[4] == everything
    # what is not finite in the generator leaves no picture to judge; in the discriminator, the generator has moved
    assert moved[2] == moved[3] == (set() if which == "g" else {"g", "ema", "moments_g"})
    lines = [json.loads(line) for line in trainer.log.path.read_text().splitlines()]
    assert all(math.isfinite(value) for line in lines for value in line.values())


def test_more_skips_in_a_row_than_allowed_stop_the_run(toy: Path) -> None:
    options = parse({**stage_options(1, toy, total_iter=6, skip_non_finite=2), "name": "toomany"}, toy)
    stage = build(options)
    poison(stage, "g", {1, 2, 4, 5, 6})  # two, then three in a row
    with pytest.raises(NonFiniteLossError, match="iteration 6"):
        Trainer(options, stage, toy / "experiments" / "toomany").run()


def poison(stage: BaseModel, which: str, iterations: set[int]) -> None:
    """Make a loss NaN in these iterations."""
    current, compute, judge = [0], stage.generator_losses, stage.discriminator_losses

    def generator_losses(batch: Batch, current_iter: int) -> tuple[Losses, torch.Tensor | None]:
        current[0] = current_iter
        losses, restored = compute(batch, current_iter)
        if which == "g" and current_iter in iterations:
            losses["l_g_pix"] = losses["l_g_pix"] * float("nan")
        return losses, restored

    def discriminator_losses(restored: torch.Tensor, gt: torch.Tensor) -> Losses:
        losses = judge(restored, gt)
        if which == "d" and current[0] in iterations:
            losses["l_d_real"] = losses["l_d_real"] * float("inf")
        return losses

    stage.generator_losses = generator_losses  # type: ignore[method-assign]
    stage.discriminator_losses = discriminator_losses  # type: ignore[method-assign]


def snapshot(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Parameters, averages and moments; the running statistics of the discriminator belong to its forward."""
    nets = {"g": trainer.stage.net_g, "d": trainer.stage.net_d, "ema": trainer.steps.ema and trainer.steps.ema.net}
    found = {f"{name}.{key}": p.clone() for name, net in nets.items() if net for key, p in net.named_parameters()}
    for name, optimizer in trainer.state.optimizers.items():
        for number, moments in optimizer.state_dict()["state"].items():
            found |= {f"moments_{name}.{number}.{key}": value.clone() for key, value in moments.items()}
    return found
