"""`make bench` on made-up benchmarks: measured, skipped and failed are told apart, and old figures stay away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import run_all

WRITE = """
import json, sys
json.dump({report}, open(sys.argv[sys.argv.index("--out") + 1], "w"))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(run_all, "HERE", tmp_path)
    report = {"benchmark": "forward", "median_seconds": {"w=0.5": 1.23456, "w=0": 0.5}}
    (tmp_path / "bench_forward.py").write_text(WRITE.format(report=report))
    (tmp_path / "bench_gpu.py").write_text(WRITE.format(report={"benchmark": "gpu", "skipped": "no CUDA device"}))
    return tmp_path


def test_medians_of_all_benchmarks_stand_in_one_table_and_one_file(folder, capsys):
    assert run_all.main(["--out", str(folder / "out")]) == 0
    table = capsys.readouterr().out
    assert "| forward | w=0.5 | 1.235 | seconds |" in table
    assert "| gpu | skipped: no CUDA device | | |" in table
    summary = json.loads((folder / "out" / "all.json").read_text())
    assert [report["benchmark"] for report in summary["benchmarks"]] == ["forward", "gpu"]
    assert summary["machine"]["torch"]


def test_a_benchmark_that_fails_is_named_and_its_old_figures_are_gone(folder, capsys):
    run_all.main(["forward", "--out", str(folder / "out")])
    (folder / "bench_forward.py").write_text("raise SystemExit(3)")
    assert run_all.main(["--out", str(folder / "out")]) == 1
    assert "| bench_forward | failed: exit code 3 | | |" in capsys.readouterr().out
    assert not (folder / "out" / "bench_forward.json").exists()


def test_a_benchmark_that_does_not_exist_is_an_error(folder):
    assert run_all.main(["nothing"]) == 2
