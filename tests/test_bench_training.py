"""The benchmark of a training step: its table, and that one arm can be measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import bench_training


def test_shares_are_those_of_the_stages_first_arm() -> None:
    arms = {
        "float32": {"seconds": [4.0, 2.0, 3.0], "cpu_seconds": [1.0]},
        "bf16": {"seconds": [1.5], "cpu_seconds": [0.5]},
    }
    lines = bench_training.table({"stage II": arms}).splitlines()
    assert lines[2] == "| stage II | float32 | 3.000 | 1.000 | 0.333 | 1.00 |"
    assert lines[3].endswith("| 0.50 |")


@pytest.mark.slow
def test_an_arm_is_measured_and_written_as_make_bench_reads_it(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    arguments = ["--size", "32", "--repeats", "1", "--threads", "1", "--stages", "2", "--arms", "float32", "bf16"]
    assert bench_training.main([*arguments, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["median_seconds"].keys() == {"stage II float32", "stage II bf16"}
    assert all(value > 0 for value in report["median_seconds"].values())
