"""What the recogniser costs in a step of stage III on a CPU: tokens, and L_ids at `every: 1`, `batch_part: 0.5`.

    python benchmarks/bench_identity.py --size 64 --repeats 3 --out bench_identity.json

Networks of the shipped stage III options with random weights, batch 2, 2 references a sample; an iresnet-50 with random
weights as the recogniser and, where IDCF_TEST_DATA names the folder of real weights, MobileFaceNet. No perceptual loss,
whose backbone is not shipped: with it the step is longer and every share smaller. The aim at 512 px is at most 15 %.

Every round runs all arms once, in turn, so that a busy moment of the machine hits all of them alike. A share is
    (tokens + L_ids) / (step without L_ids - tokens of the iresnet-50 + tokens + L_ids)
of medians: the recogniser's parts are timed alone, since at 512 px they drown in the noise of a whole step.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(1, str(ROOT / "scripts"))

from _random_stages import FULL, NUM_REFS, random_batch, random_networks, random_recognizer

from basicsr.losses.code_loss import CodeCrossEntropyLoss, CodeFeatureLoss
from basicsr.losses.gan_loss import GANLoss
from basicsr.losses.identity_loss import IdentityLoss
from basicsr.losses.pixel_loss import L1Loss
from basicsr.models.base_model import Batch, Losses
from basicsr.models.id_codeformer_joint_model import IDCodeFormerJointModel
from basicsr.models.schedule import Phase
from basicsr.recognizers import Recognizer, load_recognizer
from basicsr.utils.cli import progress, run_main
from basicsr.utils.errors import OptionError
from basicsr.utils.text_util import write_json

SIZES = FULL
BATCH = 2
EVERY = 2  # so that iteration 1 is a step without L_ids, and iteration 2 one with it

Arms = dict[str, Callable[[], None]]
Seconds = dict[str, list[float]]


def recognizers() -> dict[str, Recognizer]:
    """What is timed, by name."""
    found = {"iresnet-50": random_recognizer(**SIZES["recognizer"])}
    folder = os.environ.get("IDCF_TEST_DATA")
    if folder:
        found["MobileFaceNet"] = load_recognizer(Path(folder) / "recognizers" / "mobilefacenet_ms1m_128.onnx")
    return found


def build_stage(size: int, recognizer: Recognizer) -> IDCodeFormerJointModel:
    """Stage III at w = 1 without a perceptual loss. Nets below 512 px leave out the largest levels and their CFT."""
    losses: dict[str, nn.Module] = {
        "code": CodeCrossEntropyLoss(),
        "feat": CodeFeatureLoss(),
        "pixel": L1Loss(),
        "gan": GANLoss(),
        "identity": IdentityLoss(recognizer, every=EVERY, batch_part=0.5, jitter=True),
    }
    networks = random_networks(3, size, SIZES, recognizer)
    return IDCodeFormerJointModel(
        networks, losses, torch.device("cpu"), 1, schedule=[Phase(w=1.0)], net_d_start_iter=0, disc_weight=0.1
    )


def update(optimizer: torch.optim.Optimizer, losses: Losses) -> None:
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()


def make_step(stage: IDCodeFormerJointModel, batch: Batch) -> Callable[[int], Losses]:
    """One iteration: the step of the generator, then that of the discriminator; gives the losses of the first."""
    if stage.net_d is None:
        raise TypeError("stage III without a discriminator")
    adam = partial(torch.optim.Adam, lr=5e-5, betas=(0.9, 0.99))
    of_g, of_d = (adam([p for p in net.parameters() if p.requires_grad]) for net in (stage.net_g, stage.net_d))

    def step(current_iter: int) -> Losses:
        losses, restored = stage.generator_losses(batch, current_iter)
        if restored is None:
            raise TypeError("a code_only phase")
        update(of_g, losses)
        update(of_d, stage.discriminator_losses(restored.detach(), batch["gt"]))
        return losses

    return step


def embed_references(recognizer: Recognizer, batch: Batch) -> None:
    """What the identity tokens need of the recogniser."""
    with torch.no_grad():
        recognizer(batch["refs"].flatten(0, 1))


def identity_loss_alone(recognizer: Recognizer, batch: Batch) -> None:
    """L_ids of its part of the batch, and its gradient to the pictures."""
    loss = IdentityLoss(recognizer, batch_part=0.5, jitter=True)
    num = loss.num_samples(BATCH)
    restored = batch["lq"][:num].clone().requires_grad_()
    loss(restored, batch["gt"][:num], 1).backward()


def make_arms(size: int, by_name: Mapping[str, Recognizer]) -> Arms:
    """What is timed, by name: two whole steps with the first recogniser, then the parts of each recogniser alone."""
    torch.manual_seed(0)
    batch = random_batch(size, BATCH, torch.device("cpu"))
    step = make_step(build_stage(size, next(iter(by_name.values()))), batch)

    def without_l_ids() -> None:
        step(1)

    def with_l_ids() -> None:
        step(EVERY)

    arms: Arms = {"step without L_ids": without_l_ids, "step with L_ids": with_l_ids}
    for name, recognizer in by_name.items():
        arms[f"tokens, {name}"] = partial(embed_references, recognizer, batch)
        arms[f"L_ids, {name}"] = partial(identity_loss_alone, recognizer, batch)
    return arms


def time_arms(arms: Arms, repeats: int) -> tuple[Seconds, Seconds]:
    """Wall seconds and CPU seconds (all threads) of every run of every arm, after one untimed round."""
    seconds: Seconds = {name: [] for name in arms}
    cpu_seconds: Seconds = {name: [] for name in arms}
    for round_index in progress(range(repeats + 1), desc="rounds"):
        for name, arm in arms.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            arm()
            if round_index > 0:
                seconds[name].append(time.perf_counter() - start)
                cpu_seconds[name].append(time.process_time() - cpu_start)
    return seconds, cpu_seconds


def shares(median: Mapping[str, float], names: list[str]) -> dict[str, float]:
    """Share of a step with L_ids that goes into each recogniser, the first of which was in the timed steps."""
    rest = median["step without L_ids"] - median[f"tokens, {names[0]}"]
    own = {name: median[f"tokens, {name}"] + median[f"L_ids, {name}"] for name in names}
    return {name: cost / (rest + cost) for name, cost in own.items()}


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="picture size in px (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of every arm (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(argv)
    if args.repeats < 1:
        raise OptionError(f"--repeats: {args.repeats}, expected at least 1")
    torch.set_num_threads(args.threads)
    by_name = recognizers()
    seconds, cpu_seconds = time_arms(make_arms(args.size, by_name), args.repeats)
    median, cpu_median = ({n: statistics.median(runs) for n, runs in s.items()} for s in (seconds, cpu_seconds))
    share, cpu_share = (shares(values, list(by_name)) for values in (median, cpu_median))
    print("| arm | median s | min s | max s | median CPU s |\n|---|---|---|---|---|")
    for name, runs in seconds.items():
        print(f"| {name} | {median[name]:.3f} | {min(runs):.3f} | {max(runs):.3f} | {cpu_median[name]:.3f} |")
    for name in by_name:
        print(f"{name}: {share[name]:.1%} of the step (of CPU time {cpu_share[name]:.1%})")
    if "MobileFaceNet" not in by_name:
        print("MobileFaceNet: not measured, IDCF_TEST_DATA does not name the folder with its weights")
    if args.out is not None:
        report = {
            "benchmark": "identity",
            "size": args.size,
            "batch": BATCH,
            "references": NUM_REFS,
            "threads": args.threads,
            "torch": torch.__version__,
            "median_seconds": median,
            "median_cpu_seconds": cpu_median,
            "share_of_step": share,
            "cpu_share_of_step": cpu_share,
            "seconds": seconds,
        }
        write_json(args.out, report)
    return 0


if __name__ == "__main__":
    run_main(main)
