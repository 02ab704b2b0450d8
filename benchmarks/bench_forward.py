"""Time of one forward, CodeFormer and IDCodeFormer side by side on the CPU: float32, batch 1, random weights, in the
plain layout (NCHW) and with the channels innermost, as inference runs on a CPU.

    python benchmarks/bench_forward.py --repeats 7 --out bench_forward.json

Every round runs all arms once, in turn, so that a busy moment of the machine hits all of them alike; the report gives
medians. On a shared machine the CPU time says more than the wall time.
"""

import argparse
import logging
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from basicsr.archs.codeformer_arch import CodeFormer, CodeFormerOutput
from basicsr.archs.id_codeformer_arch import IDCodeFormer
from basicsr.archs.identity_encoder_arch import IdentityFeatures
from basicsr.utils.cli import progress, run_main
from basicsr.utils.errors import OptionError
from basicsr.utils.text_util import write_json

logger = logging.getLogger(__name__)

CH_MULT = (1, 2, 2, 4, 4, 8)  # from the smallest feature width kept to the latent grid of 16
MODES: dict[str, dict[str, Any]] = {"w=0.5": {"w": 0.5}, "w=0": {"w": 0.0}, "code_only": {"code_only": True}}
NUM_REFS = 4


def random_references(seed: int) -> IdentityFeatures:
    """Recogniser output of NUM_REFS references for one sample; the recogniser itself is not timed."""
    rng = torch.Generator().manual_seed(seed)
    embed = torch.nn.functional.normalize(torch.randn(1, NUM_REFS, 512, generator=rng), dim=-1)
    feature_map = torch.randn(1, NUM_REFS, 512, 7, 7, generator=rng)
    return IdentityFeatures(embed, feature_map, torch.ones(1, NUM_REFS, dtype=torch.bool), torch.ones(1, NUM_REFS))


LAYOUTS = {"": torch.contiguous_format, " channels_last": torch.channels_last}


def make_arms(size: int) -> dict[str, Callable[[], CodeFormerOutput]]:
    """What is timed, by name. Nets below 512 px leave out the largest levels and their CFT."""
    num_levels = (size // 16).bit_length()
    if size != 16 * 2 ** (num_levels - 1) or not 2 <= num_levels <= len(CH_MULT):
        raise OptionError(f"--size: {size}, expected one of 32, 64, 128, 256, 512")
    ch_mult = CH_MULT[-num_levels:]
    connect_list = [str(width) for width in (32, 64, 128, 256) if width <= size]
    torch.manual_seed(0)
    lq: Tensor = torch.rand(1, 3, size, size) * 2 - 1
    arms: dict[str, Callable[[], CodeFormerOutput]] = {}
    for layout, memory_format in LAYOUTS.items():
        nets = [arch(img_size=size, ch_mult=ch_mult, connect_list=connect_list) for arch in (CodeFormer, IDCodeFormer)]
        codeformer, id_codeformer = (net.eval().to(memory_format=memory_format) for net in nets)
        photo = lq.contiguous(memory_format=memory_format)
        for mode, arguments in MODES.items():
            arms[f"CodeFormer {mode}{layout}"] = partial(codeformer, photo, **arguments)
            arms[f"IDCodeFormer {mode}{layout}"] = partial(id_codeformer, photo, random_references(0), **arguments)
    return arms


def time_arms(
    arms: dict[str, Callable[[], CodeFormerOutput]], repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Wall seconds and CPU seconds (all threads) of every run of every arm, after one untimed round."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in arms}
    with torch.inference_mode():
        for round_index in progress(range(repeats + 1), desc="rounds"):
            for name, arm in arms.items():
                start, cpu_start = time.perf_counter(), time.process_time()
                arm()
                if round_index > 0:
                    seconds[name].append(time.perf_counter() - start)
                    cpu_seconds[name].append(time.process_time() - cpu_start)
    return seconds, cpu_seconds


def table(seconds: dict[str, list[float]], cpu_seconds: dict[str, list[float]]) -> str:
    """Markdown: median, fastest and slowest run, CPU time, IDCodeFormer's cost over CodeFormer, share of NCHW's."""
    lines = ["| arm | median s | min s | max s | median CPU s | over CodeFormer | of NCHW |", "|---|" + "---|" * 6]
    for name, runs in seconds.items():
        base = "CodeFormer " + name.split(" ", 1)[1]
        wall, cpu = statistics.median(runs), statistics.median(cpu_seconds[name])
        over = wall / statistics.median(seconds[base]) - 1
        share = wall / statistics.median(seconds[name.removesuffix(" channels_last")])
        lines.append(
            f"| {name} | {wall:.3f} | {min(runs):.3f} | {max(runs):.3f} | {cpu:.3f} | {over:+.1%} | {share:.2f} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512, help="image size in px (default 512)")
    parser.add_argument("--repeats", type=int, default=7, help="timed runs per arm (default 7)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--out", type=Path, default=None, help="JSON file to write")
    args = parser.parse_args(argv)
    if args.repeats < 1:
        raise OptionError(f"--repeats: {args.repeats}, expected at least 1")
    torch.set_num_threads(args.threads)
    seconds, cpu_seconds = time_arms(make_arms(args.size), args.repeats)
    print(table(seconds, cpu_seconds))
    if args.out is not None:
        report = {
            "benchmark": "forward",
            "size": args.size,
            "batch": 1,
            "dtype": "float32",
            "threads": args.threads,
            "references": NUM_REFS,
            "torch": torch.__version__,
            "machine": platform.processor() or platform.machine(),
            "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,  # Windows has none
            "median_seconds": {name: statistics.median(runs) for name, runs in seconds.items()},
            "median_cpu_seconds": {name: statistics.median(runs) for name, runs in cpu_seconds.items()},
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
        }
        write_json(args.out, report)
        logger.info("wrote %s", args.out)
    return 0


if __name__ == "__main__":
    run_main(main)
