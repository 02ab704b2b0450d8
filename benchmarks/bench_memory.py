"""Peak memory of one training iteration of the shipped option files, by stage, size and batch.

    python benchmarks/bench_memory.py --sizes 64 128 --batches 1 4

The most costly kind of iteration is taken (pictures, L_ids and the discriminator, where the stage has them), twice, so
that the optimisers have their moments. Every arm runs in a process of its own: on a CPU its peak of resident memory
(program and libraries included), with --device cuda the peak that torch allocates. Random weights, noise for pictures,
and a random recogniser of iresnet-50's shape; no perceptual loss (its backbone is not ours to ship).
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import basicsr.archs
import basicsr.data
import basicsr.losses
import basicsr.metrics
import basicsr.models  # noqa: F401  these five fill the registries
from basicsr.config import Options, parse_options
from basicsr.engine.fast_forward import visits
from basicsr.engine.gradient_steps import GradientSteps
from basicsr.models.base_model import BaseModel, Batch
from basicsr.models.stage_builder import build_stage
from basicsr.recognizers import save_recognizer
from basicsr.recognizers.adapter import RecognizerSpec
from basicsr.recognizers.iresnet import IResNet
from basicsr.utils.cli import progress, run_main
from basicsr.utils.errors import OptionError
from basicsr.utils.registry import ARCH_REGISTRY
from basicsr.utils.text_util import write_json
from basicsr.utils.weights import save_atomic

logger = logging.getLogger(__name__)

NUM_REFS = 2
LINUX = sys.platform == "linux"
FILES = {
    64: ("lfw/stage1.yml", "lfw/stage2.yml", "lfw/stage3.yml"),
    128: ("lfw/stage1_128.yml", "lfw/stage2_128.yml", "lfw/stage3_128.yml"),
    256: ("stage1_vqgan.yml", "stage2_id.yml", "stage3_id.yml"),
    512: ("stage1_vqgan.yml", "stage2_id.yml", "stage3_id.yml"),
}
CH_MULT_256 = "[1, 2, 2, 4, 8]"  # the 512 px files at 256 px: one level less, so the latent grid stays 16 x 16


def options_of(size: int, stage_number: int, folder: Path) -> Options:
    """The shipped options of a stage, its frozen networks from random weights that are written to `folder`."""
    file = FILES[size][stage_number - 1]
    changes = ["val=~"] if stage_number == 2 else ["val=~", "train:perceptual_opt=~"]
    if size == 256:
        nets = ["network_g"] if stage_number == 1 else ["network_g", "network_vqgan"]
        changes += [f"{net}:{key}" for net in nets for key in ("img_size=256", f"ch_mult={CH_MULT_256}")]
        changes += ["network_d:n_layers=3"] if stage_number != 2 else []
    options = parse_options(ROOT / "options" / file, changes, check_files=False)
    replace = msgspec.structs.replace
    paths = replace(options.path, pretrain_network_g=None, pretrain_network_d=None)
    if options.network_vqgan is not None:
        vqgan = folder / "vqgan.pth"
        save_atomic({"params": ARCH_REGISTRY.build(options.network_vqgan).state_dict()}, vqgan)
        paths = replace(paths, pretrain_network_vqgan=str(vqgan))
    identity = options.network_identity
    if identity is not None:
        identity = replace(identity, path=str(random_recognizer(folder, options.network_g["id_embed_dim"])))
    return replace(options, path=paths, network_identity=identity)


def random_recognizer(folder: Path, embed_dim: int) -> Path:
    """A file with an untrained recogniser in the shape of arcface_torch's r50."""
    net = IResNet((3, 4, 14, 3), width=64, embed_dim=embed_dim).eval()
    mean = std = (127.5, 127.5, 127.5)
    spec = RecognizerSpec("iresnet", (112, 112), "rgb", mean, std, (0.0, 0.0), embed_dim, net.map_shape, None, "")
    save_recognizer(net, folder / "recognizer.safetensors", spec)
    return folder / "recognizer.safetensors"


def noise(size: int, batch: int, device: torch.device) -> Batch:
    """A batch in which every sample has all that any stage reads."""
    lq, lq_large, gt = torch.rand(3, batch, 3, size, size, device=device) * 2 - 1
    return {
        "lq": lq,
        "lq_large": lq_large,
        "gt": gt,
        "refs": torch.rand(batch, NUM_REFS, 3, size, size, device=device) * 2 - 1,
        "ref_mask": torch.ones(batch, NUM_REFS, dtype=torch.bool, device=device),
        "identity_draw": torch.full((batch,), 0.9, device=device),
        "gt_path": ["noise"] * batch,
    }


def costly_iteration(stage: BaseModel, total_iter: int) -> int:
    """The iteration that does most."""

    def parts(current_iter: int) -> tuple[bool, bool, bool]:
        words = stage.describe(current_iter)
        return "codes alone" not in words, "discriminator" in words, "L_ids" in words

    return max(visits(stage, total_iter), key=lambda current_iter: sum(parts(current_iter)))


def measure(size: int, stage_number: int, batch: int, device: torch.device) -> dict[str, Any]:
    """Peak memory in GiB of this process after two iterations; what they did."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        options = options_of(size, stage_number, Path(name))
        stage = build_stage(options, device)
    train = options.training()[0]
    steps = GradientSteps(stage, train)
    current_iter = costly_iteration(stage, train.total_iter)
    pictures = noise(size, batch, device)
    forget_peak()
    for _ in range(2):
        steps.iterate(pictures, current_iter)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak_resident()
    return {"peak_gib": peak / 2**30, "iteration": stage.describe(current_iter)}


def forget_peak() -> None:
    """Linux: what building the networks took at most does not count."""
    if LINUX:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_resident() -> int:
    """Bytes of resident memory at most, on Linux since `forget_peak`."""
    if LINUX:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def in_a_process(size: int, stage_number: int, batch: int, device: str) -> dict[str, Any]:
    """`measure` in a process of its own; NaN where it did not fit into memory."""
    arm = (size, stage_number, batch)
    command = [sys.executable, __file__, "--device", device, "--one", *map(str, arm)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        logger.warning("%s px, stage %d, batch %d: not measured: %s", *arm, reason)
        return {"peak_gib": math.nan, "iteration": "not measured"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    logger.info("%s px, stage %d, batch %d: %.2f GiB (%s)", *arm, result["peak_gib"], result["iteration"])
    return result


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", choices=list(FILES), help="px (default: 64 128; 512 on a GPU)")
    parser.add_argument("--batches", type=int, nargs=2, default=[1, 4], help="two batch sizes (default: %(default)s)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--one", type=int, nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(argv)
    if args.one is not None:
        size, stage, batch = args.one
        print(json.dumps(measure(size, stage, batch, torch.device(args.device))))
        return 0
    few, many = args.batches
    if not 1 <= few < many:
        raise OptionError(f"--batches: found {few} {many}, expected two numbers from 1, the smaller first")
    sizes = args.sizes or ([512] if args.device == "cuda" else [64, 128])
    arms = [(size, stage, batch) for size in sizes for stage in (1, 2, 3) for batch in (few, many)]
    found = {(s, n, b): in_a_process(s, n, b, args.device) for s, n, b in progress(arms, desc="memory")}
    print(f"| px | stage | batch {few}, GiB | batch {many}, GiB | each sample more, MiB |\n|---|---|---|---|---|")
    for size, stage, _ in arms[::2]:
        low, high = (found[size, stage, number]["peak_gib"] for number in (few, many))
        each = (high - low) / (many - few) * 1024
        print(f"| {size} | {'I' * stage} | {low:.2f} | {high:.2f} | {each:.0f} |")
    if args.out is not None:
        medians = {f"{s} px, stage {'I' * n}, batch {b}": one["peak_gib"] for (s, n, b), one in found.items()}
        medians = {name: peak for name, peak in medians.items() if not math.isnan(peak)}
        report = {"benchmark": "memory", "device": args.device, "torch": torch.__version__, "median_gib": medians}
        write_json(args.out, report)
    return 0


if __name__ == "__main__":
    run_main(main)
