"""What happens to a run when the world fails: full disk, hanging files, dead ranks. Each ends in time, with its reason.

Processes of their own, since these faults end a process; see docs/faults.md.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fault_driver import Driver
from toy_run import stage_options, write_options

from basicsr.utils.weights import load_file

pytestmark = pytest.mark.slow

PATIENCE = 60.0  # seconds that a test waits for what must happen
LIMIT = 5.0  # seconds: train.timeout of the runs that hang


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    driver = Driver()
    yield driver
    driver.close()


def toy(folder: Path, name: str, total_iter: int = 4, **data: Any) -> dict[str, Any]:
    """A toy stage I that saves every second iteration."""
    plain = stage_options(1, folder, total_iter=total_iter) | {"name": name}
    plain["datasets"]["train"] |= data
    return plain


def until(fact: Callable[[], bool]) -> None:
    """Wait for it."""
    end = time.monotonic() + PATIENCE
    while not fact():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def last_line(path: Path) -> str:
    return path.read_text().strip().splitlines()[-1]


def test_a_full_disk_stops_the_run_with_its_reason_and_the_last_checkpoint_stays(
    tmp_path: Path, driver: Driver
) -> None:
    folder, stderr = tmp_path / "experiments" / "full", tmp_path / "full.txt"
    assert driver.run(write_options(toy(tmp_path, "full"), tmp_path), stderr) == 0
    before = {path.name: path.read_bytes() for path in folder.glob("*/*.*") if "latest" not in path.name}
    longer = write_options(toy(tmp_path, "full", total_iter=8), tmp_path)
    assert driver.run(longer, stderr, MAX_FILE_BYTES="100000") == 2
    assert last_line(stderr).startswith(f"error: {folder / 'models' / 'net_g_6.pth'}: the checkpoint could not be")
    assert "Traceback" not in stderr.read_text()
    assert {path.name: path.read_bytes() for path in folder.glob("*/*.*") if "latest" not in path.name} == before
    assert driver.run(longer, stderr) == 0
    assert "after iteration 4" in stderr.read_text()


def put_a_file_in_its_place(folder: Path) -> None:
    folder.rename(folder.with_name("kept"))
    folder.touch()


def make_read_only(folder: Path) -> None:
    folder.chmod(0o500)


NOT_ROOT = pytest.mark.skipif(
    os.geteuid() == 0, reason="root may write into any folder; the same run with a file in its place is tested"
)


@pytest.mark.parametrize("close", [put_a_file_in_its_place, pytest.param(make_read_only, marks=NOT_ROOT)])
def test_a_folder_that_takes_no_file_any_more_stops_the_run_with_its_reason(
    tmp_path: Path, driver: Driver, close: Callable[[Path], None]
) -> None:
    states, stderr = tmp_path / "experiments" / "closed" / "training_states", tmp_path / "closed.txt"
    pid = driver.start(write_options(toy(tmp_path, "closed", total_iter=10_000), tmp_path), stderr)
    until(lambda: (states / "2.state").exists())
    close(states)
    assert driver.wait(pid) == 2
    assert "training_states/" in last_line(stderr)
    assert "the checkpoint could not be written" in last_line(stderr)
    assert "Traceback" not in stderr.read_text()
    states.chmod(0o700)
    kept = next(path for path in (states.with_name("kept"), states) if path.is_dir())
    whole = {path.stem for path in kept.glob("*.state")}
    assert whole == {path.stem.removeprefix("net_g_") for path in (kept.parent / "models").glob("net_g_*.pth")}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_never_answers_ends_the_run_within_its_limit(tmp_path: Path, driver: Driver, workers: int) -> None:
    plain = toy(tmp_path, "hangs", total_iter=50, num_worker_per_gpu=workers, timeout=LIMIT)
    plain["train"]["timeout"] = LIMIT if workers == 0 else 100 * LIMIT
    picture = tmp_path / "faces" / "1_1.png"
    picture.unlink()
    os.mkfifo(picture)  # whoever reads it waits for a writer that never comes
    stderr, began = tmp_path / "hangs.txt", time.monotonic()
    assert driver.run(write_options(plain, tmp_path), stderr) == 2
    assert time.monotonic() - began < PATIENCE
    expected = (
        "timed out after 5" if workers else "no sign of life for 5 s (train.timeout) in: waiting for the batch of"
    )
    assert expected in stderr.read_text()


def test_a_signal_to_one_rank_stops_both_and_the_resumed_run_equals_the_straight_one(
    tmp_path: Path, driver: Driver
) -> None:
    total = 30
    for name in ("straight", "stopped"):
        plain = toy(tmp_path, name, total_iter=total, num_worker_per_gpu=1)
        plain["logger"] |= {"save_checkpoint_freq": 7, "print_freq": 4}
        options, stderr = write_options(plain, tmp_path), tmp_path / name
        pids = driver.start_ranks(options, stderr)
        if name == "stopped":
            until((tmp_path / "experiments" / "stopped" / "training_states" / "7.state").exists)
            os.kill(pids[1], signal.SIGUSR1)
            assert [driver.wait(pid) for pid in pids] == [75, 75]
            pids = driver.start_ranks(options, stderr)
        assert [driver.wait(pid) for pid in pids] == [0, 0], Path(f"{stderr}.0").read_text()[-3000:]
    for name in ("net_g_latest.pth", "net_d_latest.pth"):
        one, other = (load_file(tmp_path / "experiments" / run / "models" / name) for run in ("straight", "stopped"))
        for part in one.keys() & {"params", "params_ema"}:
            assert all(torch.equal(one[part][key], other[part][key]) for key in one[part])
    logs = [(tmp_path / "experiments" / run / "metrics.jsonl").read_text() for run in ("straight", "stopped")]
    assert logs[0] == logs[1]


def test_a_rank_that_dies_ends_the_other_one_with_an_error(tmp_path: Path, driver: Driver) -> None:
    plain = toy(tmp_path, "dead", total_iter=10_000)
    plain["train"]["timeout"] = LIMIT
    stderr = tmp_path / "dead"
    pids = driver.start_ranks(write_options(plain, tmp_path), stderr)
    until(lambda: (tmp_path / "experiments" / "dead" / "training_states" / "2.state").exists())
    os.kill(pids[1], signal.SIGKILL)
    began = time.monotonic()
    assert [driver.wait(pid) for pid in pids] == [2, -signal.SIGKILL]
    assert time.monotonic() - began < PATIENCE
    assert "error: another rank is gone" in last_line(Path(f"{stderr}.0"))


def test_a_rank_that_hangs_ends_both_with_an_error(tmp_path: Path, driver: Driver) -> None:
    plain = toy(tmp_path, "stuck", total_iter=10_000)
    plain["train"]["timeout"] = LIMIT
    stderr = tmp_path / "stuck"
    pids = driver.start_ranks(write_options(plain, tmp_path), stderr)
    until(lambda: (tmp_path / "experiments" / "stuck" / "training_states" / "2.state").exists())
    os.kill(pids[1], signal.SIGSTOP)
    began = time.monotonic()
    assert driver.wait(pids[0]) == 2
    assert time.monotonic() - began < PATIENCE
    os.kill(pids[1], signal.SIGKILL)
    driver.wait(pids[1])
    assert "(train.timeout)" in Path(f"{stderr}.0").read_text()


def test_a_run_goes_on_with_another_number_of_ranks_after_the_samples_seen(tmp_path: Path, driver: Driver) -> None:
    stderr = tmp_path / "fewer"
    options = write_options(toy(tmp_path, "fewer", total_iter=4), tmp_path)
    assert [driver.wait(pid) for pid in driver.start_ranks(options, stderr)] == [0, 0]
    longer = write_options(toy(tmp_path, "fewer", total_iter=6), tmp_path)
    assert driver.run(longer, stderr) == 0
    assert "was written by 2 ranks, now there are 1: the run goes on after 16 samples" in stderr.read_text()
    assert load_file(tmp_path / "experiments" / "fewer" / "training_states" / "6.state")["samples"] == 16 + 4


@pytest.mark.parametrize("allowed", [0, 1])
def test_a_loss_that_is_bad_on_one_rank_is_skipped_or_ends_the_run_on_both(
    tmp_path: Path, driver: Driver, allowed: int
) -> None:
    plain, stderr = toy(tmp_path, f"nan{allowed}", total_iter=3), tmp_path / "nan"
    plain["train"]["skip_non_finite"] = allowed
    plain["logger"]["save_checkpoint_freq"] = 1
    pids = driver.start_ranks(write_options(plain, tmp_path), stderr, NAN_AT="1:2")
    assert [driver.wait(pid) for pid in pids] == ([0, 0] if allowed else [2, 2])
    said = [Path(f"{stderr}.{rank}").read_text() for rank in (0, 1)]
    assert all("iteration 2: " in text and "is not finite" in text for text in said)
    if allowed:
        nets = [load_file(tmp_path / "experiments" / "nan1" / "models" / f"net_g_{number}.pth") for number in (1, 2, 3)]
        for part in ("params", "params_ema"):
            same = [all(torch.equal(nets[n][part][k], nets[n + 1][part][k]) for k in nets[0][part]) for n in (0, 1)]
            assert same == [True, False]
