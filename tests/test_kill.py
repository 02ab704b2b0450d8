"""A run that is killed at any instant goes on from its last checkpoint as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_run import stage_options, write_options

ROOT = Path(__file__).resolve().parent.parent
NUM_KILLS = 3


def start(folder: Path, name: str) -> subprocess.Popen[str]:
    """Train a toy stage I in a process of its own, going on where an earlier one ended."""
    plain = stage_options(1, folder, total_iter=60) | {"name": name}
    plain["logger"]["save_checkpoint_freq"] = 3
    command = [sys.executable, str(ROOT / "basicsr" / "train.py"), "--auto_resume"]
    return subprocess.Popen(
        [*command, "-opt", str(write_options(plain, folder))],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Until `path` exists or the run has ended."""
    while not path.exists() and process.poll() is None:
        time.sleep(0.01)


@pytest.mark.slow
def test_three_kills_at_random_instants_leave_the_weights_of_a_straight_run_bit_for_bit(tmp_path: Path) -> None:
    straight = start(tmp_path, "straight")
    assert straight.wait() == 0, straight.stderr and straight.stderr.read()
    rng = np.random.default_rng()  # another instant in each run of the test: none of them may matter
    killed, states = tmp_path / "experiments" / "killed", []
    for number in range(NUM_KILLS):
        process = start(tmp_path, "killed")
        wait_for(killed / "training_states" / f"{3 + 9 * number}.state", process)
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        states.append(process.returncode)
    assert states[0] == -signal.SIGKILL, "the run ended before it could be killed"
    last = start(tmp_path, "killed")
    assert last.wait() == 0, last.stderr and last.stderr.read()
    for name in ("net_g_latest.pth", "net_d_latest.pth", "net_g_60.pth"):
        expected = torch.load(tmp_path / "experiments" / "straight" / "models" / name, weights_only=True)
        found = torch.load(killed / "models" / name, weights_only=True)
        for part in expected.keys() & {"params", "params_ema"}:
            assert all(torch.equal(expected[part][key], found[part][key]) for key in expected[part])
    lines = [(tmp_path / "experiments" / run / "metrics.jsonl").read_text() for run in ("straight", "killed")]
    assert lines[0] == lines[1]
