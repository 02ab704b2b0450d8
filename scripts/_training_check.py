"""One stage for some steps in float32 eager and in bf16, compiled: losses side by side, resume, speed, memory."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _random_stages import build_steps, random_batch

from basicsr.engine.checkpoint import Checkpoints, TrainState
from basicsr.engine.gradient_steps import GradientSteps

LOSS_TOLERANCE = 0.1  # of the float32 loss, mean of the last quarter: bf16 flips codes, and the runs drift apart
RESUME_TOLERANCE = {"cpu": 0.0, "cuda": 1e-3}  # relative; some CUDA kernels add in an order that is not fixed
NUM_BATCHES = 4


def train(
    steps: GradientSteps, size: int, num_images: int, numbers: Sequence[int], device: torch.device
) -> tuple[list[dict[str, float]], list[float]]:
    """Losses and seconds of the iterations `numbers`."""
    losses, seconds = [], []
    for number in numbers:
        batch = random_batch(size, num_images, device, seed=number % NUM_BATCHES)
        start = time.perf_counter()
        values, _, _ = steps.iterate(batch, number)
        steps.require_finite()  # reads the device
        seconds.append(time.perf_counter() - start)
        losses.append({name: value.item() for name, value in values.items() if name.startswith("l_")})
    return losses, seconds


def check_stage(
    stage: int, size: int, num_images: int, num_steps: int, device: torch.device, toy: bool
) -> dict[str, Any]:
    """The figures of one stage; `good`: losses and resume are within their tolerances."""
    compiled = {1: ("g", "d"), 2: ("g", "vqgan"), 3: ("g", "d", "vqgan")}[stage] if device.type == "cuda" else ()
    arms: dict[str, dict[str, Any]] = {
        "float32": {},
        "fast": {"precision": "bf16", "channels_last": True, "compile": compiled},
    }
    row: dict[str, Any] = {"stage": stage, "compiled": list(compiled)}
    curves = {}
    for name, options in arms.items():
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        steps = build_steps(stage, size, device, toy, **options)
        curves[name], seconds = train(steps, size, num_images, range(1, num_steps + 1), device)
        row[f"images_per_second_{name}"] = num_images / statistics.median(seconds[num_steps // 2 :])
        row[f"peak_gib_{name}"] = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
        del steps
    row["loss_difference"] = loss_difference(curves["float32"], curves["fast"])
    row["resume_difference"] = resume_difference(stage, size, num_images, device, toy)
    near = row["resume_difference"] <= RESUME_TOLERANCE[device.type]
    row["good"] = near and row["loss_difference"] <= LOSS_TOLERANCE
    return row


def loss_difference(expected: Sequence[dict[str, float]], found: Sequence[dict[str, float]]) -> float:
    """|sum of the losses found - expected| / |expected|, means over the last quarter of the steps; GAN losses aside.

    These change their sign, and follow the discriminator rather than the arithmetic.
    """
    last = max(1, len(expected) // 4)
    sums = [
        statistics.mean(
            sum(value for name, value in losses.items() if name not in ("l_g_gan", "l_d_real", "l_d_fake"))
            for losses in curve[-last:]
        )
        for curve in (expected, found)
    ]
    return abs(sums[1] - sums[0]) / abs(sums[0])


def resume_difference(stage: int, size: int, num_images: int, device: torch.device, toy: bool) -> float:
    """Largest relative difference of a loss in iterations 3 and 4: straight, and from the checkpoint of iteration 2."""
    straight = build_steps(stage, size, device, toy)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train(straight, size, num_images, (1, 2), device)
        checkpoints = Checkpoints(folder, {})
        checkpoints.save(TrainState(straight.stage, straight.ema, straight.optimizers, current_iter=2))
        expected, _ = train(straight, size, num_images, (3, 4), device)
        del straight
        resumed = build_steps(stage, size, device, toy)
        state = TrainState(resumed.stage, resumed.ema, resumed.optimizers)
        Checkpoints(folder, {}).load(folder / "training_states" / "2.state", state)
        found, _ = train(resumed, size, num_images, (3, 4), device)
    return max(
        abs(new[loss] - old[loss]) / max(abs(old[loss]), 1e-6)
        for old, new in zip(expected, found, strict=True)
        for loss in old
        if math.isfinite(old[loss])
    )


def stage_table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, as it stands in docs/benchmarks.md."""
    lines = [
        "| stage | float32 eager, images/s | bf16 channels-last compiled, images/s | peak GiB | losses differ | "
        "resume differs | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        memory = " / ".join(
            "-" if row[f"peak_gib_{arm}"] is None else f"{row[f'peak_gib_{arm}']:.1f}" for arm in ("float32", "fast")
        )
        lines.append(
            f"| {row['stage']} | {row['images_per_second_float32']:.2f} | {row['images_per_second_fast']:.2f} "
            f"| {memory} | {row['loss_difference']:.1%} | {row['resume_difference']:.1e} "
            f"| {'good' if row['good'] else 'BAD'} |"
        )
    return "\n".join(lines)
