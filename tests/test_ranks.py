"""Two gloo ranks with half the batch train like one rank with the whole batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fault_driver import Driver
from toy_run import run, stage_options, write_options

from basicsr.utils.weights import load_file

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    driver = Driver()
    yield driver
    driver.close()


def train_on(ranks: int, plain: dict[str, Any], folder: Path, driver: Driver) -> Path:
    """Train in processes of their own; returns the experiment's folder."""
    options, stderr = write_options(plain, folder), folder / f"{plain['name']}.txt"
    pids = driver.start_ranks(options, stderr, ranks)
    assert [driver.wait(pid) for pid in pids] == [0] * ranks, Path(f"{stderr}.0").read_text()[-3000:]
    return folder / "experiments" / str(plain["name"])


def train_with_torchrun(plain: dict[str, Any], folder: Path) -> Path:
    """Two ranks as a user starts them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    command += [str(ROOT / "basicsr" / "train.py"), "-opt", str(write_options(plain, folder))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "experiments" / str(plain["name"])


def rank_options(stage: int, folder: Path) -> dict[str, Any]:
    """A toy stage whose result may depend on nothing but the data of the whole batch.

    Plain SGD: Adam divides gradients that are zero but for rounding by their own size.
    """
    plain = stage_options(stage, folder)
    plain["train"]["optim_g"] = {"type": "SGD", "lr": 0.05}
    if stage != 2:
        plain["train"]["optim_d"] = {"type": "SGD", "lr": 0.05}
    if stage == 1:  # a restart looks at the batches of all ranks
        plain["train"] |= {"code_restart_every": 2, "code_restart_until": 4}
    return plain


def assert_equal_runs(one: Path, two: Path, other_figures: tuple[str, ...] = ()) -> None:
    """The same weights, averages and running moments, and the same figures in every line of the log.

    Sums run in another order on two ranks, and the schedule's large steps let that grow: 1e-4 of a weight, 2e-4 of a
    figure after four iterations. `other_figures`: beginnings of names that may differ.
    """
    for name in sorted(path.name for path in (one / "models").glob("net_*_4.pth")):
        nets, others = (load_file(run / "models" / name) for run in (one, two))
        parts = {"params", "params_ema"} if name.startswith("net_g") else {"params"}
        assert parts <= nets.keys()
        for part in parts:
            torch.testing.assert_close(others[part], nets[part], rtol=1e-4, atol=1e-5)
    logs = [(run / "metrics.jsonl").read_text().splitlines() for run in (one, two)]
    assert len(logs[0]) == 4
    for first, second in zip(*logs, strict=True):
        left, right = json.loads(first), json.loads(second)
        assert left.keys() == right.keys()
        for name in left:
            if name.startswith(other_figures):
                continue
            assert right[name] == pytest.approx(left[name], rel=2e-4, abs=1e-5), name


def assert_the_log_tells_of(folder: Path, names: tuple[str, ...]) -> None:
    """Else the equality would prove nothing about them."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for name in names:
        assert any(line.get(name, 0) > 0 for line in lines), name


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_ranks_with_half_the_batch_equal_one_rank(tmp_path: Path, driver: Driver, stage: int) -> None:
    run(stage_options(1, tmp_path, total_iter=2), tmp_path)
    plain = rank_options(stage, tmp_path)
    folders = {}
    for ranks, batch in ((1, 4), (2, 2)):
        plain["name"] = f"ranks{ranks}"
        plain["datasets"]["train"]["batch_size_per_gpu"] = batch
        with_torchrun = (ranks, stage) == (2, 2)
        folders[ranks] = (
            train_with_torchrun(plain, tmp_path) if with_torchrun else train_on(ranks, plain, tmp_path, driver)
        )
    assert_equal_runs(folders[1], folders[2])
    assert_the_log_tells_of(folders[1], {1: ("codes_restarted", "d_weight"), 2: (), 3: ("d_weight",)}[stage])


@pytest.mark.parametrize("stage", [1, 3])
def test_two_ranks_that_accumulate_equal_one_rank_with_the_whole_batch(
    tmp_path: Path, driver: Driver, stage: int
) -> None:
    run(stage_options(1, tmp_path, total_iter=2), tmp_path)
    plain = rank_options(stage, tmp_path)
    plain["network_d"]["norm"] = "group"  # batch normalisation would see each part by itself
    if stage == 3:
        plain["train"]["identity_opt"]["batch_part"] = 1.0  # of one sample there is no half
    folders = {}
    for ranks, batch, parts in ((1, 4, 1), (2, 1, 2)):
        plain["name"] = f"ranks{ranks}"
        plain["datasets"]["train"]["batch_size_per_gpu"] = batch
        plain["train"]["accumulate"] = parts
        folders[ranks] = train_on(ranks, plain, tmp_path, driver)
    # these two are not linear in the samples: the mean over the parts is another number, and of one part at that
    assert_equal_runs(folders[1], folders[2], other_figures=("perplexity", "id_attn"))
