"""`make bench`: run every benchmarks/bench_*.py, collect their medians in one table and one JSON file.

What a benchmark keeps to: `python bench_x.py --out FILE` prints its table and writes
`{"benchmark": name, "median_<unit>": {arm: number}, ...}`; where it cannot be measured `{"benchmark": name, "skipped":
reason}`, with exit code 0.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
    }


def run_benchmark(script: Path, folder: Path) -> dict[str, Any]:
    """Its JSON, or `{"benchmark", "failed"}`."""
    target = folder / f"{script.stem}.json"
    target.unlink(missing_ok=True)  # yesterday's figures must not pass for today's
    done = subprocess.run([sys.executable, str(script), "--out", str(target)], cwd=ROOT, check=False)
    if done.returncode != 0 or not target.exists():
        return {"benchmark": script.stem, "failed": f"exit code {done.returncode}"}
    report: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    return report


def table_lines(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """One Markdown row for each arm of each benchmark."""
    lines = ["| benchmark | arm | median | unit |", "|---|---|---|---|"]
    for report in reports:
        name = report.get("benchmark", "?")
        for word in ("failed", "skipped"):
            if word in report:
                lines.append(f"| {name} | {word}: {report[word]} | | |")
        for key, medians in report.items():
            if key.startswith("median_"):
                unit = key.removeprefix("median_").replace("_", " ")
                lines += [f"| {name} | {arm} | {value:.4g} | {unit} |" for arm, value in medians.items()]
    return lines


def main(argv: list[str] | None = None) -> int:
    """Command line. Exit code 1 when a benchmark failed, 2 when there is none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="benchmarks to run, without bench_ and .py; all when none is named")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the JSON files")
    args = parser.parse_args(argv)
    scripts = sorted(HERE.glob("bench_*.py"))
    if args.names:
        scripts = [script for script in scripts if script.stem.removeprefix("bench_") in args.names]
    if not scripts:
        sys.stderr.write(f"error: no such benchmark in {HERE}\n")
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    reports = []
    for number, script in enumerate(scripts, 1):
        print(f"[{number}/{len(scripts)}] {script.name}", flush=True)
        reports.append(run_benchmark(script, args.out))
    whole = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "machine": machine(), "benchmarks": reports}
    summary = args.out / "all.json"
    summary.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    print("\n" + "\n".join(table_lines(reports)))
    print(f"\n{summary}")
    return 1 if any("failed" in report for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
