"""Two gloo ranks with half the batch train like one rank with the whole batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_run import run, stage_options, write_options

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


def train_on(ranks: int, plain: dict[str, Any], folder: Path) -> Path:
    """Train in fresh processes as a user would; returns the experiment's folder."""
    command = [sys.executable]
    if ranks > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command += ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}", f"--master_port={port}"]
    command += [str(ROOT / "basicsr" / "train.py"), "-opt", str(write_options(plain, folder))]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "experiments" / str(plain["name"])


@pytest.mark.parametrize("stage", [2, 3])
def test_two_ranks_with_half_the_batch_equal_one_rank(tmp_path: Path, stage: int) -> None:
    run(stage_options(1, tmp_path, total_iter=2), tmp_path)
    plain = stage_options(stage, tmp_path)
    # plain SGD: Adam divides gradients that are zero but for rounding by their own size; L_ids on all samples, since
    # "the first half" is another half on two ranks; no discriminator, whose BatchNorm still sees each rank by itself
    identity = {"every": 2, "batch_part": 1.0, "jitter": True}
    plain["train"] |= {"optim_g": {"type": "SGD", "lr": 0.05}, "identity_opt": identity}
    if stage == 3:
        plain["train"] |= {"gan_opt": None, "optim_d": None}
        plain["network_d"] = None
    folders = {}
    for ranks, batch in ((1, 4), (2, 2)):
        plain["name"] = f"ranks{ranks}"
        plain["datasets"]["train"]["batch_size_per_gpu"] = batch
        folders[ranks] = train_on(ranks, plain, tmp_path)
    one, two = (torch.load(folders[n] / "models/net_g_4.pth", weights_only=True)["params"] for n in (1, 2))
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=1e-4, atol=1e-5)
    logs = [(folders[n] / "metrics.jsonl").read_text().splitlines() for n in (1, 2)]
    for first, second in zip(*logs, strict=True):
        left, right = json.loads(first), json.loads(second)
        assert left.keys() == right.keys()
        for name in left:
            assert right[name] == pytest.approx(left[name], rel=2e-4, abs=1e-5), name


@pytest.mark.parametrize("stage", [1, 3])
def test_two_ranks_with_a_discriminator_stay_finite(tmp_path: Path, stage: int) -> None:
    run(stage_options(1, tmp_path, total_iter=2), tmp_path)
    plain = stage_options(stage, tmp_path) | {"name": "gan"}  # BatchNorm sees each rank by itself: no equality
    if stage == 1:
        plain["train"] |= {"code_restart_every": 2, "code_restart_until": 4}
    folder = train_on(2, plain, tmp_path)
    for name in ("net_g_4.pth", "net_d_4.pth"):
        weights = torch.load(folder / "models" / name, weights_only=True)["params"]
        assert all(torch.isfinite(value).all() for value in weights.values())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["iter"] for line in lines] == [1, 2, 3, 4]
    assert any("l_g_gan" in line and "d_weight" in line for line in lines)
