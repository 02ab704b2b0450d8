"""Faces a second through the restorer's network on a CPU: precision and batch size, beside the plain network.

    python benchmarks/bench_inference.py --repeats 3 --out bench_inference.json

The plain arm is the network in float32, NCHW, eager, as the released code runs it. The others are what inference runs:
channels innermost, float32 or bfloat16 (basicsr/inference/execution.py), and with --compile each of them compiled as
well (the untimed round compiles). Random weights. Every round runs all arms once, in turn, so that a busy moment of the
machine hits all of them alike; medians are given, and the CPU time of all threads, which says more on a shared machine.
Beside the times: how far the pictures are from those of the plain arm.
"""

import argparse
import logging
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from basicsr.archs.codeformer_arch import CodeFormer, CodeFormerOutput
from basicsr.inference.execution import compiled, cpu_has_bf16, store_weights_as
from basicsr.utils.cli import progress, run_main
from basicsr.utils.errors import OptionError
from basicsr.utils.text_util import write_json

logger = logging.getLogger(__name__)

CH_MULT = (1, 2, 2, 4, 4, 8)  # from the smallest feature width kept to the latent grid of 16
MODES: dict[str, dict[str, Any]] = {"w=0.5": {"w": 0.5}, "code_only": {"code_only": True}}
Arm = Callable[[], CodeFormerOutput]
Times = dict[str, list[float]]  # s, of every run of every arm


def make_arms(size: int, batch_sizes: Sequence[int], modes: Sequence[str], with_compiled: bool) -> dict[str, Arm]:
    """What is timed, by "mode, batch, kind". bf16 is left out where the CPU has none."""
    num_levels = (size // 16).bit_length()
    if size != 16 * 2 ** (num_levels - 1) or not 2 <= num_levels <= len(CH_MULT):
        raise OptionError(f"--size: {size}, expected one of 32, 64, 128, 256, 512")
    connect_list = [str(width) for width in (32, 64, 128, 256) if width <= size]
    kinds = ["plain", "float32", *(["bf16"] if cpu_has_bf16() else [])]
    nets = {}
    for kind in kinds:
        torch.manual_seed(0)
        net = CodeFormer(img_size=size, ch_mult=CH_MULT[-num_levels:], connect_list=connect_list)
        nets[kind] = net.eval().requires_grad_(False)
        if kind != "plain":
            net.to(memory_format=torch.channels_last)
        if kind == "bf16":
            store_weights_as(net, torch.bfloat16)
    arms: dict[str, Arm] = {}
    for mode in modes:
        for batch in batch_sizes:
            faces = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
            for kind, net in nets.items():
                arms[f"{mode}, batch {batch}, {kind}"] = make_arm(net, faces, kind, MODES[mode])
                if with_compiled and kind != "plain":
                    arms[f"{mode}, batch {batch}, {kind} compiled"] = make_arm(compiled(net), faces, kind, MODES[mode])
    return arms


def make_arm(call: Callable[..., CodeFormerOutput], faces: Tensor, kind: str, arguments: dict[str, Any]) -> Arm:
    """One forward of a net as inference runs it."""
    layout = torch.contiguous_format if kind == "plain" else torch.channels_last
    faces = faces.contiguous(memory_format=layout)

    def arm() -> CodeFormerOutput:
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
            output = call(faces, **arguments)
            return output

    return arm


def measure(
    arms: dict[str, Arm], repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, Any]]:
    """Wall and CPU seconds of every run after an untimed round, and the distance of each arm from the plain one."""
    wall: Times = {name: [] for name in arms}
    cpu: Times = {name: [] for name in arms}
    outputs: dict[str, CodeFormerOutput] = {}
    with torch.inference_mode():
        for name, arm in progress([item for _ in range(repeats + 1) for item in arms.items()], desc="forwards"):
            start, cpu_start = time.perf_counter(), time.process_time()
            output = arm()
            if name in outputs:
                wall[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - cpu_start)
            outputs[name] = output
    return wall, cpu, {name: distance(output, outputs[plain_of(name)]) for name, output in outputs.items()}


def plain_of(name: str) -> str:
    """The plain arm of the same mode and batch size."""
    return f"{name.rpartition(', ')[0]}, plain"


def distance(output: CodeFormerOutput, plain: CodeFormerOutput) -> dict[str, float | None]:
    """Share of equal codes, and the mean and largest difference of the pictures, of 255."""
    codes = (output.logits.argmax(2) == plain.logits.argmax(2)).float().mean().item()
    if output.restored is None or plain.restored is None:
        return {"equal_codes": codes, "mean_difference": None, "max_difference": None}
    difference = (output.restored.float() - plain.restored).abs() * 127.5
    return {
        "equal_codes": codes,
        "mean_difference": difference.mean().item(),
        "max_difference": difference.max().item(),
    }


def table(wall: Times, cpu: Times, parity: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "| arm | median s | median CPU s | faces/s | of plain, wall | of plain, CPU | equal codes | mean difference |",
        "|---|" + "---|" * 7,
    ]
    for name, runs in wall.items():
        seconds, cpu_seconds = statistics.median(runs), statistics.median(cpu[name])
        batch = int(name.split(", ")[1].removeprefix("batch "))
        shares = [
            median / statistics.median(times[plain_of(name)]) for median, times in ((seconds, wall), (cpu_seconds, cpu))
        ]
        mean = parity[name]["mean_difference"]
        lines.append(
            f"| {name} | {seconds:.3f} | {cpu_seconds:.3f} | {batch / seconds:.3f} | {shares[0]:.2f} | {shares[1]:.2f} "
            f"| {parity[name]['equal_codes']:.1%} | {'' if mean is None else f'{mean:.3f} of 255'} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="image size in px (default 512)")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 4], help="faces at once (default 1 4)")
    parser.add_argument("--modes", choices=list(MODES), nargs="+", default=list(MODES), help="what the network does")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs per arm (default 3)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--compile", action="store_true", help="also compiled: minutes more, needs a C++ compiler")
    parser.add_argument("--out", type=Path, default=None, help="JSON file to write")
    args = parser.parse_args(argv)
    if min(args.repeats, args.threads, *args.batch_sizes) < 1:
        raise OptionError("--repeats, --threads and --batch_sizes: expected at least 1")
    torch.set_num_threads(args.threads)
    if args.compile:  # an arm that fell back to eager would be timed as compiled
        torch._dynamo.config.fail_on_recompile_limit_hit = True
    wall, cpu, parity = measure(make_arms(args.size, args.batch_sizes, args.modes, args.compile), args.repeats)
    print(table(wall, cpu, parity))
    if args.out is not None:
        report = {
            "benchmark": "inference",
            "size": args.size,
            "threads": args.threads,
            "torch": torch.__version__,
            "machine": platform.processor() or platform.machine(),
            "cpu_has_bf16": cpu_has_bf16(),
            "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,  # Windows has none
            "median_seconds": {name: statistics.median(runs) for name, runs in wall.items()},
            "median_cpu_seconds": {name: statistics.median(runs) for name, runs in cpu.items()},
            "parity": parity,
        }
        write_json(args.out, report)
        logger.info("wrote %s", args.out)
    return 0


if __name__ == "__main__":
    run_main(main)
