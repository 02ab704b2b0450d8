"""The benchmark of inference: every arm at a toy size, its JSON, its table."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from basicsr.utils.errors import OptionError


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).resolve().parent.parent / "benchmarks/bench_inference.py"
    spec = importlib.util.spec_from_file_location("bench_inference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_times_every_arm_and_says_how_far_each_is_from_plain(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "CH_MULT", (1, 1, 1, 1, 1, 1))
    arguments = ["--size", "32", "--repeats", "1", "--batch_sizes", "1", "2", "--threads", "1"]
    assert bench.main([*arguments, "--out", str(tmp_path / "b.json")]) == 0
    report = json.loads((tmp_path / "b.json").read_text())
    names = set(report["median_seconds"])
    assert {"w=0.5, batch 1, plain", "code_only, batch 2, float32"} <= names
    assert names == set(report["median_cpu_seconds"]) == set(report["parity"])
    assert report["parity"]["w=0.5, batch 1, plain"]["max_difference"] == 0
    assert report["parity"]["w=0.5, batch 2, float32"]["max_difference"] < 0.0127, "1e-4 of [-1, 1]"
    with pytest.raises(OptionError, match="--size: 33"):
        bench.main(["--size", "33"])
