"""Seconds and memory of a step of identity guidance, with a preview and with the whole image, beside the generator.

    python benchmarks/bench_guidance.py --size 512 --batch_sizes 1 4 --repeats 3 --out bench_guidance.json

CodeFormer at --size px and an iresnet-50 recognizer with random weights: time does not depend on what they know. A step
is the difference of two runs of `IdentityGuidance`, of 1 and of 1 + STEPS steps, over STEPS. Every round runs all arms
once, in turn; medians are given. Memory is the peak of the resident memory during an arm above that before it.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(1, str(ROOT / "scripts"))

from _random_stages import FULL, random_recognizer

from basicsr.archs.codeformer_arch import CodeFormer
from basicsr.inference.execution import cpu_has_bf16, store_weights_as
from basicsr.models.identity_guidance import GuidanceOptions, IdentityGuidance
from basicsr.utils.cli import progress, run_main
from basicsr.utils.errors import OptionError
from basicsr.utils.text_util import write_json

logger = logging.getLogger(__name__)

CH_MULT = (1, 2, 2, 4, 4, 8)  # from the smallest feature width kept to the latent grid of 16
STEPS = 2
SAMPLE_SECONDS = 0.01  # between two looks at the resident memory
W = 0.5


class PeakMemory:
    """Peak of this process's resident memory while it is open, above that at its start, GiB. Linux alone."""

    def __enter__(self) -> PeakMemory:
        self.start = self.peak = resident_gib()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, resident_gib())


def resident_gib() -> float:
    """Resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30


def make_arms(size: int, batch_sizes: Sequence[int]) -> dict[str, Callable[[], object]]:
    """What is timed, by "precision, batch, kind"."""
    num_levels = (size // 16).bit_length()
    if size != 16 * 2 ** (num_levels - 1) or not 2 <= num_levels <= len(CH_MULT):
        raise OptionError(f"--size: {size}, expected one of 32, 64, 128, 256, 512")
    connect_list = [str(width) for width in (32, 64, 128, 256) if width <= size]
    recognizer = random_recognizer(**FULL["recognizer"])
    arms: dict[str, Callable[[], object]] = {}
    for precision in ("float32", *(["bf16"] if cpu_has_bf16() else [])):
        torch.manual_seed(0)
        net = CodeFormer(img_size=size, ch_mult=CH_MULT[-num_levels:], connect_list=connect_list)
        net = net.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        if precision == "bf16":
            store_weights_as(net, torch.bfloat16)
        for batch in batch_sizes:
            faces = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
            faces = faces.contiguous(memory_format=torch.channels_last)
            target = F.normalize(torch.ones(batch, 512), dim=1)
            name = f"{precision}, batch {batch}"
            arms[f"{name}, generator forward"] = make_decode(net, faces, precision, learns=False)
            arms[f"{name}, generator forward and backward"] = make_decode(net, faces, precision, learns=True)
            for kind in ("whole image", "preview"):
                for steps in (1, 1 + STEPS):
                    options = GuidanceOptions(steps=steps, margin=1.0, preview=kind == "preview")
                    guidance = IdentityGuidance(net, [recognizer], options)
                    arms[f"{name}, {kind}, {steps} steps"] = make_run(guidance, faces, target, precision)
    return arms


def make_decode(net: CodeFormer, faces: torch.Tensor, precision: str, learns: bool) -> Callable[[], object]:
    """The generator with its CFT alone, from codes to the image."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        prediction = net.predict(faces, W)
    fuse_at = net.cft_at(prediction.taps, W, None)
    codes = net.look_up(prediction.logits, "none", True).requires_grad_(learns)

    def arm() -> object:
        with torch.set_grad_enabled(learns), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            image = net.generator(codes, fuse_at)
            return torch.autograd.grad(image.square().mean(), codes) if learns else image

    return arm


def make_run(
    guidance: IdentityGuidance, faces: torch.Tensor, target: torch.Tensor, precision: str
) -> Callable[[], object]:
    """A whole guided restoration."""

    def arm() -> object:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return guidance(faces, [target], w=W)

    return arm


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="image size in px (default 128)")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1], help="faces at once (default 1)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs per arm (default 3)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--out", type=Path, default=None, help="JSON file to write")
    args = parser.parse_args(argv)
    if min(args.repeats, args.threads, *args.batch_sizes) < 1:
        raise OptionError("--repeats, --threads and --batch_sizes: expected at least 1")
    torch.set_num_threads(args.threads)
    arms = make_arms(args.size, args.batch_sizes)
    times: dict[str, list[float]] = {name: [] for name in arms}
    peaks: dict[str, float] = {}
    warm: set[str] = set()
    for name, arm in progress([item for _ in range(args.repeats + 1) for item in arms.items()], desc="guidance"):
        with PeakMemory() as memory:
            start = time.perf_counter()
            arm()
            seconds = time.perf_counter() - start
        if name in warm:
            times[name].append(seconds)
        warm.add(name)
        peaks[name] = max(peaks.get(name, 0.0), memory.peak - memory.start)
    median = {name: statistics.median(runs) for name, runs in times.items()}
    print(table(median, peaks))
    if args.out is not None:
        report = {
            "benchmark": "guidance",
            "size": args.size,
            "threads": args.threads,
            "torch": torch.__version__,
            "machine": platform.processor() or platform.machine(),
            "load_average": os.getloadavg()[0],
            "median_seconds": median,
            "peak_gib": peaks,
        }
        write_json(args.out, report)
        logger.info("wrote %s", args.out)
    return 0


def table(median: dict[str, float], peaks: dict[str, float]) -> str:
    """Markdown: a row for each precision and batch size."""
    lines = [
        "| | generator, s | its backward | step, whole image, s | step, preview, s | of generator | 10 steps, s a face "
        "| peak GiB, whole image | peak GiB, preview |",
        "|---|" + "---|" * 8,
    ]
    for name in dict.fromkeys(name.rpartition(", generator")[0] for name in median if ", generator" in name):
        forward = median[f"{name}, generator forward"]
        backward = (median[f"{name}, generator forward and backward"] - forward) / forward
        last = {kind: f"{name}, {kind}, {1 + STEPS} steps" for kind in ("whole image", "preview")}
        whole, preview = (
            (median[last[kind]] - median[f"{name}, {kind}, 1 steps"]) / STEPS for kind in ("whole image", "preview")
        )
        faces = int(name.rpartition(" ")[2])
        total = (median[last["preview"]] + (10 - 1 - STEPS) * preview) / faces
        lines.append(
            f"| {name} | {forward:.2f} | {backward:.2f}x | {whole:.2f} | {preview:.2f} | {preview / forward:.2f}x "
            f"| {total:.1f} | {peaks[last['whole image']]:.2f} | {peaks[last['preview']]:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_main(main)
