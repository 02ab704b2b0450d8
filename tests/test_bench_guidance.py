"""The benchmark of guidance: what a step is, and that its arms run."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from basicsr.utils.errors import OptionError


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).resolve().parent.parent / "benchmarks/bench_guidance.py"
    spec = importlib.util.spec_from_file_location("bench_guidance", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_step_is_the_difference_of_two_runs_over_their_steps(bench: ModuleType) -> None:
    last = 1 + bench.STEPS
    name = "float32, batch 2"
    median = {f"{name}, generator forward": 2.0, f"{name}, generator forward and backward": 5.0}
    for kind, first, step in (("whole image", 10.0, 6.0), ("preview", 8.0, 1.5)):
        median |= {
            f"{name}, {kind}, 1 steps": first,
            f"{name}, {kind}, {last} steps": first + bench.STEPS * step,
        }
    row = bench.table(median, dict.fromkeys(median, 0.25)).splitlines()[-1]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    ten = (8.0 + 9 * 1.5) / 2
    assert cells == [name, "2.00", "1.50x", "6.00", "1.50", "0.75x", f"{ten:.1f}", "0.25", "0.25"]


def test_the_peak_is_that_of_the_arm(bench: ModuleType) -> None:
    with bench.PeakMemory() as memory:
        kept = torch.ones(64 * 2**20)  # 0.25 GiB, written to
        for _ in range(3):
            kept.mul_(2)
    assert 0.2 < memory.peak - memory.start < 0.5


@pytest.mark.parametrize("size", [48, 16, 1024])
def test_a_size_without_a_network_is_refused(bench: ModuleType, size: int) -> None:
    with pytest.raises(OptionError):
        bench.make_arms(size, [1])
