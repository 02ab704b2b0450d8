"""The data benchmark: what it writes, on tiny pictures."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import bench_data


def test_it_writes_rates_of_degradation_and_of_the_loader_for_each_storage(tmp_path: Path) -> None:
    command = ["--out", str(tmp_path / "out.json"), "--size", "32", "--images", "2", "--rounds", "1"]
    assert bench_data.main([*command, "--workers", "0", "--batches", "1"]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["benchmark"] == "data"
    assert {"JPEG files", "WebP files"} <= set(report["loader"])
    assert all(rate > 0 for rate in report["median_images_per_second"].values())
    assert report["agreement, stage II"]["largest_difference_levels"] <= 1


def test_without_workers_the_loader_is_left_out(tmp_path: Path) -> None:
    command = ["--out", str(tmp_path / "out.json"), "--size", "32", "--images", "1", "--rounds", "1", "--workers"]
    assert bench_data.main(command) == 0
    assert "loader" not in json.loads((tmp_path / "out.json").read_text())
