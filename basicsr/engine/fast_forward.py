"""`train.py --fast-forward`: every kind of iteration that a run will come to, tried before the run is left alone.

A run of weeks must not stop at the first iteration of its last phase. The stage says in words what each iteration does;
the first and the last iteration of every kind are trained on a few batches, with everything that belongs to them.
"""

from __future__ import annotations

import logging
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import msgspec
import torch

from basicsr.config.options import Options
from basicsr.engine.loaders import move_to, train_loader
from basicsr.engine.trainer import Trainer
from basicsr.models.base_model import BaseModel
from basicsr.models.stage_builder import build_stage
from basicsr.utils.cli import progress
from basicsr.utils.logger import writes_below
from basicsr.utils.seed import seed_everything

logger = logging.getLogger(__name__)

NUM_BATCHES = 2


def visits(stage: BaseModel, total_iter: int) -> list[int]:
    """The first and the last iteration of each kind (`stage.describe`), ascending; the first and the last of all."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for current_iter in range(1, total_iter + 1):
        kind = stage.describe(current_iter)
        first.setdefault(kind, current_iter)
        last[kind] = current_iter
    return sorted({1, total_iter, *first.values(), *last.values()})


def fast_forward(options: Options, device: torch.device) -> int:
    """Train the iterations of `visits` and nothing between them; the last one as `Trainer.run` does it.

    That one is followed by a validation of one batch and a checkpoint, in a folder that goes afterwards. Weights move
    at each visit, so the losses are those of no real run: what counts is that each of them can be computed.

    Returns:
        0, or the exit code of a run that a signal stopped.
    """
    start = time.perf_counter()
    seed_everything(options.manual_seed)
    stage = build_stage(options, device)
    total = options.training()[0].total_iter
    numbers = visits(stage, total)
    root = Path(options.path.experiments_root)
    with writes_below(root):
        root.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".fast_forward_", dir=root)
    with folder as name:
        trainer = Trainer(_shortened(options), stage, Path(name))
        train_set = trainer.train_set
        parts = trainer.train_options.accumulate
        loader = train_loader(trainer.train_data, train_set, options.manual_seed, 0, parts)
        few = cycle([move_to(batch, device) for batch in islice(loader, NUM_BATCHES)])
        for current_iter in progress(numbers[:-1], desc="fast forward"):
            _visit(trainer, next(few), current_iter)
        trainer.state.current_iter = total - 1
        logger.info("iteration %d (%s), then a validation and a checkpoint:", total, stage.describe(total))
        code = trainer.run()
    memory = f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if device.type == "cuda" else ""
    done, took = f"{len(numbers)} of {total} iterations", time.perf_counter() - start
    logger.info("fast forward: %s went well, %.0f s%s. Nothing is kept.", done, took, memory)
    return code


def _visit(trainer: Trainer, batch: dict[str, object], current_iter: int) -> None:
    """One iteration and its line."""
    what = trainer.stage.describe(current_iter)
    try:
        values, _, _ = trainer.steps.iterate(batch, current_iter)
        trainer.steps.require_finite()
    except Exception:
        logger.error("iteration %d (%s) fails:", current_iter, what)
        raise
    figures = "  ".join(f"{name} {value.item():.4f}" for name, value in sorted(values.items()))
    logger.info("iteration %d (%s): %s", current_iter, what, figures)


def _shortened(options: Options) -> Options:
    """The same run with one batch of each validation set."""
    if options.val is None:
        return options
    one_batch = max(dataset.loader.batch_size_per_gpu for dataset in options.datasets.values())
    num_images = min(one_batch, options.val.num_images or one_batch)
    return msgspec.structs.replace(options, val=msgspec.structs.replace(options.val, num_images=num_images))
