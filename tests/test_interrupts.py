"""Signals, hanging and dying loader workers, wherever the run stands: it ends in time, whole, with its code."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_run import SIZE, build, parse, run, stage_options, weights_of

from basicsr.engine.interrupts import EXIT_STOPPED, stop_signals_held
from basicsr.engine.trainer import Trainer
from basicsr.models.base_model import Batch
from basicsr.utils.errors import UserError

SIGNALS = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]
HANG = 600.0  # seconds; no test waits for its end


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with toy faces."""
    folder = tmp_path_factory.mktemp("toy")
    run(stage_options(1, folder, total_iter=1), folder)
    return folder


class Troubled:
    """A data set that does something odd when a sample is read for the n-th time in this process."""

    def __init__(self, inner: Any, when: int, trouble: Callable[[], None]) -> None:
        self.inner, self.when, self.trouble = inner, when, trouble
        self.num_read = 0

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        self.num_read += 1
        if self.num_read == self.when:
            self.trouble()
        return self.inner[key]


def trainer_for(toy: Path, name: str, workers: int = 0, total_iter: int = 50, **data: Any) -> Trainer:
    """A toy stage I that validates after iteration 3."""
    plain = stage_options(1, toy, total_iter=total_iter) | {"name": name}
    plain["datasets"]["train"] |= {"num_worker_per_gpu": workers, **data}
    index = str(toy / "faces" / "index.csv")
    plain["datasets"]["val"] = {"type": "FFHQBlindDataset", "source": index, "split": "val", "gt_size": SIZE}
    plain["val"] = {"val_freq": 3, "metrics": {"psnr": {"type": "PSNRMetric"}}}
    plain["logger"]["save_checkpoint_freq"] = 100
    options = parse(plain, toy)
    return Trainer(options, build(options), toy / "experiments" / name, auto_resume=True)


def hang() -> None:
    time.sleep(HANG)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def workers_since(before: list[Any]) -> list[Any]:
    return [child for child in multiprocessing.active_children() if child not in before]


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_computing_stops_after_that_iteration(toy: Path, number: int) -> None:
    trainer = trainer_for(toy, f"computing{number}")
    compute = trainer.stage.generator_losses

    def signalled(batch: Batch, current_iter: int) -> Any:
        if current_iter == 2:
            send(number)
        return compute(batch, current_iter)

    trainer.stage.generator_losses = signalled  # type: ignore[method-assign]
    before = signal.getsignal(number)
    assert trainer.run() == EXIT_STOPPED
    assert [path.stem for path in trainer.checkpoints.states.iterdir()] == ["2"]
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_waiting_for_data_stops_at_once(toy: Path, number: int) -> None:
    trainer = trainer_for(toy, f"waiting{number}", workers=1)
    trainer.train_data = Troubled(trainer.train_data, 5, hang)  # the third batch never comes
    compute, timer = trainer.stage.generator_losses, threading.Timer(1.0, send, [number])

    def signalled_later(batch: Batch, current_iter: int) -> Any:
        if current_iter == 2:  # counted from here: a slow start cannot bring the signal before its time
            timer.start()
        return compute(batch, current_iter)

    trainer.stage.generator_losses = signalled_later  # type: ignore[method-assign]
    before = multiprocessing.active_children()
    began = time.monotonic()
    try:
        assert trainer.run() == EXIT_STOPPED
    finally:
        timer.cancel()
    assert time.monotonic() - began < HANG / 10
    assert trainer.state.current_iter == 2
    assert [path.stem for path in trainer.checkpoints.states.iterdir()] == ["2"]
    assert not workers_since(before), "the worker that hangs is gone"


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_validating_stops_and_the_resumed_run_validates_first(toy: Path, number: int) -> None:
    name, total = f"validating{number}", 5
    trainer = trainer_for(toy, name, total_iter=total)
    restore, calls = trainer.stage.restore, []

    def signalled(batch: Batch, net: torch.nn.Module, **keywords: Any) -> torch.Tensor:
        calls.append(len(batch["gt"]))
        send(number)
        return restore(batch, net, **keywords)

    trainer.stage.restore = signalled  # type: ignore[method-assign]
    assert trainer.run() == EXIT_STOPPED
    assert calls == [1], "the other two pictures of the set are not waited for"
    resumed = trainer_for(toy, name, total_iter=total)
    assert resumed.run() == 0
    straight = trainer_for(toy, f"straight{number}", total_iter=total)
    assert straight.run() == 0
    expected, found = weights_of(straight), weights_of(resumed)
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert resumed.log.path.read_text() == straight.log.path.read_text()


def test_a_second_ctrl_c_stops_at_once(toy: Path) -> None:
    trainer = trainer_for(toy, "twice")
    compute = trainer.stage.generator_losses

    def signalled(batch: Batch, current_iter: int) -> Any:
        send(signal.SIGINT)
        send(signal.SIGINT)
        return compute(batch, current_iter)

    trainer.stage.generator_losses = signalled  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.run()


def test_a_worker_that_hangs_is_an_error_within_the_time_out_and_what_is_done_is_saved(toy: Path) -> None:
    trainer = trainer_for(toy, "hangs", workers=1, timeout=1.0)
    trainer.train_data = Troubled(trainer.train_data, 5, hang)
    before = multiprocessing.active_children()
    with pytest.raises(UserError, match=r"the batch of iteration 3: the loader processes did not .*after 1"):
        trainer.run()
    assert [path.stem for path in trainer.checkpoints.states.iterdir()] == ["2"]
    assert not workers_since(before)


def test_a_worker_that_dies_is_an_error_and_what_is_done_is_saved(toy: Path) -> None:
    trainer = trainer_for(toy, "dies", workers=1)
    trainer.train_data = Troubled(trainer.train_data, 9, die)
    with pytest.raises(UserError, match=r"a loader process died while .* \(DataLoader worker"):
        trainer.run()
    (state,) = trainer.checkpoints.states.iterdir()
    assert int(state.stem) == trainer.state.current_iter <= 4


def test_a_worker_that_dies_does_not_break_into_an_iteration(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_for(toy, "between", workers=1)
    compute, finished = trainer.stage.generator_losses, []

    def kill_the_worker(batch: Batch, current_iter: int) -> Any:
        if current_iter == 2:
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)
                child.join()
            time.sleep(0.05)
        losses = compute(batch, current_iter)
        finished.append(current_iter)
        return losses

    trainer.stage.generator_losses = kill_the_worker  # type: ignore[method-assign]
    with pytest.raises(UserError, match="a loader process died"):
        trainer.run()
    assert finished[:2] == [1, 2]
    assert trainer.state.current_iter == finished[-1]


def test_a_process_that_starts_while_signals_are_held_never_gets_one() -> None:
    with stop_signals_held():
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0.3,))
        child.start()
    for number in SIGNALS:
        os.kill(child.pid or 0, number)
    child.join()
    assert child.exitcode == 0
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(SIGNALS)


def test_workers_outlive_the_signals_of_their_process_group(toy: Path) -> None:
    trainer = trainer_for(toy, "group", workers=2)
    compute = trainer.stage.generator_losses

    def signalled(batch: Batch, current_iter: int) -> Any:
        if current_iter == 1:
            for child in multiprocessing.active_children():
                for number in SIGNALS:
                    os.kill(child.pid or 0, number)
        elif current_iter == 5:
            send(signal.SIGTERM)
        return compute(batch, current_iter)

    trainer.stage.generator_losses = signalled  # type: ignore[method-assign]
    assert trainer.run() == EXIT_STOPPED
    assert trainer.state.current_iter == 5


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_resume_in_the_middle_of_an_epoch_does_not_depend_on_the_workers(
    toy: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    straight = trainer_for(toy, f"epoch{workers}", total_iter=7)  # an epoch has 4.5 batches
    assert straight.run() == 0
    assert trainer_for(toy, f"parts{workers}", workers, total_iter=3).run() == 0
    with caplog.at_level(logging.INFO, logger="basicsr"):
        resumed = trainer_for(toy, f"parts{workers}", 2 - workers, total_iter=7)
    assert "after iteration 3" in caplog.text
    assert resumed.run() == 0
    expected, found = weights_of(straight), weights_of(resumed)
    assert all(torch.equal(expected[key], found[key]) for key in expected)
