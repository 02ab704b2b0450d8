"""A run that is killed at any instant goes on from its last checkpoint as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fault_driver import Driver
from toy_run import stage_options, write_options

from basicsr.utils.weights import load_file

pytestmark = pytest.mark.slow

NUM_KILLS = 20
SEED = 20
TOTAL_ITER = 150
SAVE_EVERY = 2


@pytest.fixture
def driver() -> Iterator[Driver]:
    driver = Driver()
    yield driver
    driver.close()


def options_for(folder: Path, name: str, workers: int) -> Path:
    """A toy stage I (two networks, an average) that spends much of its time in writing checkpoints."""
    plain = stage_options(1, folder, total_iter=TOTAL_ITER) | {"name": name}
    plain["logger"] |= {"save_checkpoint_freq": SAVE_EVERY, "keep_last": 3, "print_freq": 5}
    plain["datasets"]["train"]["num_worker_per_gpu"] = workers
    return write_options(plain, folder)


def require_whole_files(folder: Path) -> None:
    """Every file that has its name can be read to its end."""
    for path in [*folder.glob("models/*.pth"), *folder.glob("training_states/*.state")]:
        load_file(path)
    for path in folder.glob("models/*.pth"):
        assert not path.name.startswith(".")


def test_twenty_kills_at_random_instants_leave_the_weights_of_a_straight_run_bit_for_bit(
    tmp_path: Path, driver: Driver
) -> None:
    began = time.monotonic()
    assert driver.run(options_for(tmp_path, "straight", workers=0), tmp_path / "straight.txt") == 0
    whole_run = time.monotonic() - began
    options, stderr = options_for(tmp_path, "killed", workers=1), tmp_path / "killed.txt"
    killed = tmp_path / "experiments" / "killed"
    rng, iterations = np.random.default_rng(SEED), set()
    for number in range(NUM_KILLS):
        pid = driver.start(options, stderr)
        # every fourth in the start, the rest after the run has written something new
        if number % 4:
            newest = last_state(killed)
            while last_state(killed) == newest and os.path.exists(f"/proc/{pid}"):
                time.sleep(0.002)
            time.sleep(rng.uniform(0, whole_run / NUM_KILLS / 4))
        else:
            time.sleep(rng.uniform(0, whole_run / 10))
        os.kill(pid, signal.SIGKILL)
        assert driver.wait(pid) == -signal.SIGKILL, stderr.read_text()[-2000:]
        require_whole_files(killed)
        iterations.add(last_state(killed))
    assert len(iterations) > NUM_KILLS / 2, "the kills must fall at different places of the run"
    assert driver.run(options, stderr) == 0, stderr.read_text()[-2000:]
    assert "skipped a checkpoint" not in stderr.read_text()
    for name in ("net_g_latest.pth", "net_d_latest.pth", f"net_g_{TOTAL_ITER}.pth"):
        expected, found = (
            load_file(tmp_path / "experiments" / run / "models" / name) for run in ("straight", "killed")
        )
        for part in expected.keys() & {"params", "params_ema"}:
            assert all(torch.equal(expected[part][key], found[part][key]) for key in expected[part])
    lines = [(tmp_path / "experiments" / run / "metrics.jsonl").read_text() for run in ("straight", "killed")]
    assert lines[0] == lines[1]
    assert [json.loads(line)["iter"] for line in lines[1].splitlines()] == list(range(5, TOTAL_ITER + 1, 5))


def last_state(folder: Path) -> int:
    """Iteration of the newest checkpoint; 0 without one."""
    return max((int(path.stem) for path in folder.glob("training_states/[0-9]*.state")), default=0)
