"""`make gpu-check`: the tests that need CUDA, then all three stages and the inference at full size. Without a device it
says so and leaves.

Each stage is trained for some steps in float32 eager and in bf16, channels-last, compiled: losses side by side, resume
from a checkpoint, images/s, peak memory. Random weights: speed and memory do not depend on them. The table goes into
docs/benchmarks.md. `--device cpu --size 32 --toy --steps 4` is a dry run of the stages, without compilation.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import _root
import torch
from _training_check import check_stage, stage_table

from basicsr.archs.codeformer_arch import CodeFormer
from basicsr.archs.id_codeformer_arch import IDCodeFormer
from basicsr.utils.cli import progress, run_main
from basicsr.utils.text_util import write_json

logger = logging.getLogger(__name__)

NO_TESTS = 5  # pytest's exit code
ARCHS = {"CodeFormer": CodeFormer, "IDCodeFormer": IDCodeFormer}
ARMS = ("float32", "bf16", "bf16 channels_last")


def run_gpu_tests() -> int:
    """Exit code of `pytest -m gpu`; no test at all is a failure."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "--min-passed", "1"]
    code = subprocess.run(command, cwd=_root.ROOT, check=False).returncode
    if code == NO_TESTS:
        logger.error("no GPU test ran: that proves nothing")
    return code


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median time of `work` on the device, after three untimed runs."""
    seconds = []
    for round_index in range(repeats + 3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        if round_index >= 3:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def measure(arch: str, arm: str, batch_size: int, repeats: int) -> dict[str, Any]:
    """Images/s and peak memory of one inference arm at 512 px, w = 0.5."""
    layout = torch.channels_last if "channels_last" in arm else torch.contiguous_format
    net = ARCHS[arch]().eval().to("cuda").to(memory_format=layout)
    lq = (torch.rand(batch_size, 3, 512, 512, device="cuda") * 2 - 1).to(memory_format=layout)
    casts = torch.autocast("cuda", torch.bfloat16) if arm.startswith("bf16") else nullcontext()
    torch.cuda.reset_peak_memory_stats()
    with torch.inference_mode(), casts:
        seconds = median_seconds(lambda: net(lq, w=0.5), repeats)
    return {
        "arch": arch,
        "arm": arm,
        "images_per_second": batch_size / seconds,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def inference_rows(batch_size: int, repeats: int) -> list[dict[str, Any]]:
    """All inference arms, printed."""
    arms = [(arch, arm) for arch in ARCHS for arm in ARMS]
    rows = [measure(arch, arm, batch_size, repeats) for arch, arm in progress(arms, desc="inference")]
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, 512 px, batch {batch_size}, w = 0.5, eager")
    for row in rows:
        print(f"{row['arch']:13} {row['arm']:19} {row['images_per_second']:8.2f} images/s {row['peak_gib']:6.2f} GiB")
    return rows


def main(argv: list[str] | None = None) -> int:
    """Command line. Exit code 0: all well, or no device; 1: a check failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=4, help="images per forward or step (4)")
    parser.add_argument("--repeats", type=int, default=10, help="timed forwards per inference arm (10)")
    parser.add_argument("--steps", type=int, default=20, help="steps per stage and arm (20)")
    parser.add_argument("--size", type=int, default=512, help="px of the training pictures (512)")
    parser.add_argument("--toy", action="store_true", help="narrow networks, for a dry run")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: a dry run of the stages (cuda)")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args(argv)
    on_gpu = args.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        print(f"skipped: no CUDA device (torch {torch.__version__}); nothing was checked or measured")
        return 0
    failed = run_gpu_tests() if on_gpu else 0
    device = torch.device(args.device)
    stages = [
        check_stage(stage, args.size, args.batch_size, args.steps, device, args.toy)
        for stage in progress((1, 2, 3), desc="stages")
    ]
    print(stage_table(stages))
    report: dict[str, Any] = {"torch": torch.__version__, "size": args.size, "batch_size": args.batch_size}
    report |= {"device": torch.cuda.get_device_name() if on_gpu else "cpu", "stages": stages}
    if on_gpu:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 means float32
        report["rows"] = inference_rows(args.batch_size, args.repeats)
    if args.out is not None:
        write_json(args.out, report)
    return 1 if failed or not all(row["good"] for row in stages) else 0


if __name__ == "__main__":
    run_main(main)
