"""Chains of programs: what fails, what stops, and what the others do meanwhile."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from _steps import Step, Steps, Stopped, environments
from toy_run import stage_options, write_options

from basicsr.engine.interrupts import EXIT_STOPPED
from basicsr.utils.errors import UserError

PATIENCE = 60.0  # seconds; no test waits for its end

# Says that it began; `obeys` ends it by SIGTERM with a note, as a training that writes its checkpoint.
WAITS = """
import pathlib, signal, sys, time
here = pathlib.Path(sys.argv[1])
def stop(*_):
    here.with_suffix(".stopped").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, stop if {obeys} else signal.SIG_IGN)
here.with_suffix(".began").touch()
time.sleep({seconds})
"""
WRITES = """
import os, pathlib, sys
pathlib.Path(sys.argv[1]).write_text(os.environ.get("OMP_NUM_THREADS", "not set"))
"""


def step(folder: Path, name: str, source: str, **keywords: object) -> Step:
    """A program that is called with the path of its file `name`."""
    program = folder / f"{name}.py"
    program.write_text(source)
    return Step(name, [str(program), str(folder / name)], folder / name, **keywords)  # type: ignore[arg-type]


def waits(folder: Path, name: str, obeys: bool = True) -> Step:
    return step(folder, name, WAITS.format(obeys=obeys, seconds=PATIENCE))


def send_when(ready: Callable[[], bool], *signals: int, patience: float = PATIENCE) -> None:
    """Send signals to this process, one after the other, as soon as it is time; at the latest when patience ends."""

    def send() -> None:
        until = time.monotonic() + patience
        while not ready() and time.monotonic() < until:
            time.sleep(0.02)
        for number in signals:
            os.kill(os.getpid(), number)
            time.sleep(0.2)

    threading.Thread(target=send, daemon=True).start()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_reaches_all_programs_under_way_and_no_other_one_begins(tmp_path: Path, number: int) -> None:
    steps = [waits(tmp_path, name) for name in "abc"]
    send_when(lambda: all((tmp_path / f"{name}.began").exists() for name in "ab"), number)
    before, start = signal.getsignal(number), time.monotonic()
    with pytest.raises(Stopped) as caught, Steps() as runner:
        runner.run_all(steps, 2, tmp_path / "logs")
    assert caught.value.code == EXIT_STOPPED
    assert time.monotonic() - start < PATIENCE / 2
    assert sorted(path.stem for path in tmp_path.glob("*.stopped")) == ["a", "b"]
    assert not (tmp_path / "c.began").exists()
    assert signal.getsignal(number) == before


def test_ctrl_c_waits_for_a_program_that_has_something_to_save(tmp_path: Path) -> None:
    slow_to_stop = WAITS.format(obeys=True, seconds=PATIENCE).replace(
        "def stop(*_):", "def stop(*_):\n    time.sleep(1)"
    )
    send_when((tmp_path / "a.began").exists, signal.SIGINT)
    with pytest.raises(Stopped), Steps() as runner:
        runner.run(step(tmp_path, "a", slow_to_stop))
    assert (tmp_path / "a.stopped").exists()


def test_a_second_signal_kills_what_does_not_listen(tmp_path: Path) -> None:
    send_when((tmp_path / "a.began").exists, signal.SIGINT, signal.SIGINT)
    start = time.monotonic()
    with pytest.raises(Stopped), Steps() as runner:
        runner.run(waits(tmp_path, "a", obeys=False))
    assert time.monotonic() - start < PATIENCE / 2


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_step_that_fails_loses_what_needs_it_and_nothing_else(tmp_path: Path, jobs: int) -> None:
    fails = step(tmp_path, "fails", "raise SystemExit(3)")
    needs_it = step(tmp_path, "needs it", WRITES, needs=[tmp_path / "fails"])
    with Steps() as runner:
        first = runner.run_all([fails, step(tmp_path, "fine", WRITES)], jobs, tmp_path / "logs")
        second = runner.run_all([needs_it, step(tmp_path, "also fine", WRITES)], jobs, tmp_path / "logs")
    where = "above" if jobs == 1 else f"in {tmp_path}/logs/fails.log"
    assert [str(error) for error in first] == [f"the step 'fails' ended with code 3; its reason stands {where}."]
    assert [str(error) for error in second] == [f"the step 'needs it' was left out: {tmp_path}/fails was not made."]
    assert (tmp_path / "fine").exists()
    assert (tmp_path / "also fine").exists()
    assert not (tmp_path / "needs it").exists()


def test_programs_beside_each_other_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6))
    with Steps() as runner:
        runner.run_all([step(tmp_path, name, WRITES) for name in "abc"], 3, tmp_path / "logs")
        assert {(tmp_path / name).read_text() for name in "abc"} == {"2"}
        runner.run_all([step(tmp_path, name, WRITES) for name in "cd"], 3, tmp_path / "logs")
        assert (tmp_path / "d").read_text() == "not set", "alone, since c is done: all cores are its own"
    assert [found.get("OMP_NUM_THREADS") for found in environments(8)] == ["1"] * 8
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [found["CUDA_VISIBLE_DEVICES"] for found in environments(3)] == ["3", "5", "3"]
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert "OMP_NUM_THREADS" not in environments(2)[0], "who says how many gets as many"


def test_a_step_that_is_done_is_not_done_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    done = step(tmp_path, "done", "raise SystemExit(3)")
    done.makes.touch()
    with caplog.at_level(logging.INFO), Steps() as runner:
        runner.run(done)
    assert "done before" in caplog.text
    with pytest.raises(UserError, match="code 3"), Steps() as runner:
        runner.run(done._replace(is_done=lambda _: False))


@pytest.mark.slow
def test_two_trainings_that_are_stopped_write_a_checkpoint_and_go_on(tmp_path: Path) -> None:
    trainings = []
    for name in "ab":
        plain = stage_options(1, tmp_path, total_iter=10_000) | {"name": name}
        plain["logger"] |= {"save_checkpoint_freq": 10_000}
        option_file = str(write_options(plain, tmp_path))
        makes = tmp_path / "experiments" / name / "models" / "net_g_latest.pth"
        trainings.append(Step(name, ["basicsr/train.py", "-opt", option_file, "--auto_resume"], makes))
    states = [tmp_path / "experiments" / name / "training_states" for name in "ab"]
    logs = [folder.with_name("metrics.jsonl") for folder in states]

    def lines() -> list[int]:
        return [len(log.read_text().splitlines()) if log.exists() else 0 for log in logs]

    def have_grown(begun: list[int]) -> bool:
        return all(now > then for now, then in zip(lines(), begun, strict=True))

    def last_iterations() -> list[int]:
        return [max(int(path.stem) for path in folder.iterdir()) for folder in states]

    stopped = [[0, 0]]
    for _ in range(2):
        begun = lines()
        send_when(partial(have_grown, begun), signal.SIGTERM, patience=10 * PATIENCE)
        with pytest.raises(Stopped), Steps() as runner:
            runner.run_all(trainings, 2, tmp_path / "logs")
        stopped.append(last_iterations())
    for earlier, later in itertools.pairwise(stopped):
        assert all(a < b for a, b in zip(earlier, later, strict=True)), stopped
