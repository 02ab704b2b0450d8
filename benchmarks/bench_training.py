"""Time of one training step of stages II and III: float32 NCHW eager against bf16, channels-last, recomputed features,
accumulation.

    python benchmarks/bench_training.py --size 512 --repeats 1 --out bench_training.json

Networks of the shipped options with random weights (narrow ones below 512 px unless --full), GT codes computed in the
step, Adam, EMA. The first iteration is not timed; the timed ones are 2, 3, ...; L_ids is due in every fourth. Each
arm is timed by itself, one after the other, round by round, so that a busy moment of the machine hits all of them.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(1, str(ROOT / "scripts"))

from _random_stages import build_steps, random_batch

from basicsr.engine.gradient_steps import GradientSteps
from basicsr.models.base_model import Batch
from basicsr.utils.cli import progress, run_main
from basicsr.utils.errors import OptionError
from basicsr.utils.text_util import write_json

ALL_PARTS = ("encoder", "transformer", "generator")
ARMS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float32 channels_last": {"channels_last": True},
    "bf16": {"precision": "bf16"},
    "bf16 channels_last": {"precision": "bf16", "channels_last": True},
    "float32 checkpointing": {"checkpoint_activations": ALL_PARTS},
    "float32 accumulate 2": {"accumulate": 2},
}
STAGES = {2: "stage II", 3: "stage III"}


def timed_step(steps: GradientSteps, batch: Batch, current_iter: int) -> tuple[float, float]:
    """Wall and CPU seconds of one iteration."""
    wall, cpu = time.perf_counter(), time.process_time()
    steps.iterate(batch, current_iter)
    steps.require_finite()  # reads the device, so that all of it is timed
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(stage: int, args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Wall and CPU seconds per image of every arm. Networks are built per arm and round: two at 512 px fill 16 GiB."""
    device = torch.device(args.device)
    found: dict[str, dict[str, list[float]]] = {name: {"seconds": [], "cpu_seconds": []} for name in args.arms}
    toy = args.size < 512 and not args.full
    for _ in progress(range(args.repeats), desc=STAGES[stage]):
        for name in args.arms:
            options = ARMS[name]
            num_images = args.batch_size * options.get("accumulate", 1)
            batch = random_batch(args.size, num_images, device)
            steps = build_steps(stage, args.size, device, toy, **options)
            timed_step(steps, batch, 1)
            wall, cpu = timed_step(steps, batch, 2)
            found[name]["seconds"].append(wall / num_images)
            found[name]["cpu_seconds"].append(cpu / num_images)
            del steps
    return found


def table(figures: dict[str, dict[str, dict[str, list[float]]]]) -> str:
    """Markdown: medians per image, steps per second and the share of the stage's float32 NCHW step."""
    lines = ["| stage | arm | s per image | CPU s per image | images/s | of float32 |", "|---|---|---|---|---|---|"]
    for stage, arms in figures.items():
        base = statistics.median(next(iter(arms.values()))["seconds"])
        for name, runs in arms.items():
            wall, cpu = statistics.median(runs["seconds"]), statistics.median(runs["cpu_seconds"])
            lines.append(f"| {stage} | {name} | {wall:.3f} | {cpu:.3f} | {1 / wall:.3f} | {wall / base:.2f} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="image size in px (64; design figures: 512)")
    parser.add_argument("--full", action="store_true", help="full widths below 512 px, too")
    parser.add_argument("--batch_size", type=int, default=1, help="images of one part (1)")
    parser.add_argument("--repeats", type=int, default=3, help="timed steps per arm (3)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (2)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--stages", type=int, nargs="+", choices=sorted(STAGES), default=[2, 3], help="2 3")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), help="the first one is the base")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(argv)
    if args.repeats < 1:
        raise OptionError(f"--repeats: {args.repeats}, expected at least 1")
    torch.set_num_threads(args.threads)
    figures = {STAGES[stage]: measure(stage, args) for stage in args.stages}
    print(table(figures))
    if args.out is not None:
        medians = {
            f"{stage} {name}": statistics.median(runs["seconds"])
            for stage, arms in figures.items()
            for name, runs in arms.items()
        }
        report = {
            "benchmark": "training",
            "size": args.size,
            "batch_size": args.batch_size,
            "threads": args.threads,
            "device": args.device,
            "torch": torch.__version__,
            "machine": platform.processor() or platform.machine(),
            "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,  # Windows has none
            "median_seconds": medians,
            "figures": figures,
        }
        write_json(args.out, report)
    return 0


if __name__ == "__main__":
    run_main(main)
