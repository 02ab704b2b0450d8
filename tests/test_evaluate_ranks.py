"""An evaluation on two ranks gives the numbers of one."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_evaluate import SIDE, save_judge

from basicsr.utils.img_util import imwrite

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


def evaluate(folder: Path, ranks: int) -> Path:
    """Run scripts/evaluate.py as a user would; returns the folder of the report."""
    out = folder / f"out{ranks}"
    command = [sys.executable]
    if ranks > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command += ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}", f"--master_port={port}"]
    command += [
        str(ROOT / "scripts" / "evaluate.py"),
        "--restored",
        f"run={folder / 'run'}",
        f"other={folder / 'other'}",
    ]
    command += ["--gt", str(folder / "gt"), "--lq", str(folder / "lq"), "--identities", str(folder / "index.csv")]
    command += ["--recognizer", str(folder / "judge.safetensors"), "--lpips_net", "--out", str(out)]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert (out / "metrics.json").is_file(), done.stderr[-3000:]
    return out


def test_two_ranks_give_the_values_thresholds_and_failures_of_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [f"{i:02d}" for i in range(51)]  # an odd number: the ranks' shares differ
    for folder in ("gt", "lq", "run", "other"):
        for name in names:
            imwrite(tmp_path / folder / f"{name}.png", rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8))
    lines = [f"gt/{name}.png,p{i // 2},test" for i, name in enumerate(names)]
    (tmp_path / "index.csv").write_text("path,identity,split\n" + "\n".join(lines) + "\n")
    (tmp_path / "run" / "03.png").write_bytes(b"")
    save_judge(tmp_path / "judge.safetensors", seed=0)
    one, two = (evaluate(tmp_path, ranks) for ranks in (1, 2))
    rows = [list(csv.DictReader((out / "per_image.csv").read_text().splitlines())) for out in (one, two)]
    assert len(rows[0]) == len(rows[1]) == 102
    for left, right in zip(*rows, strict=True):
        for key, cell in left.items():
            if key in ("name", "identity", "run", "failure") or not cell:
                assert right[key] == cell
            else:
                assert float(right[key]) == pytest.approx(float(cell), abs=1e-5), key  # batches of another size
    first, second = (json.loads((out / "metrics.json").read_text()) for out in (one, two))
    assert first["failures"] == second["failures"]
    assert len(first["failures"]) == 1
    assert second["calibrations"][0]["num_impostor"] == first["calibrations"][0]["num_impostor"] > 1000
    assert second["calibrations"][0]["threshold"] == pytest.approx(first["calibrations"][0]["threshold"], abs=1e-5)
