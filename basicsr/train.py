"""Train a stage: `python basicsr/train.py -opt options/stage2_id.yml`, alone or under torchrun."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import sys
import time
from logging.handlers import MemoryHandler
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # Python has put basicsr/ there, whose files must not hide modules of the standard library
sys.path.insert(1, str(ROOT / "scripts"))
import _root  # noqa: F401  a foreign basicsr is named and refused
import torch

import basicsr.archs
import basicsr.data
import basicsr.losses
import basicsr.metrics
import basicsr.models  # noqa: F401  these five fill the registries
from basicsr.config import add_option_arguments, answer_from_args, options_from_args, resolved
from basicsr.config.options import Options
from basicsr.engine.fast_forward import fast_forward
from basicsr.engine.summary import Summary, log_summary, model_summary
from basicsr.engine.trainer import Trainer
from basicsr.models.stage_builder import build_stage
from basicsr.utils.cli import run_main
from basicsr.utils.dist_util import barrier, close_distributed, default_device, init_distributed, is_main
from basicsr.utils.launch import adopt_launcher, was_restarted
from basicsr.utils.logger import hold_log, log_to_file, versions, writes_below
from basicsr.utils.seed import seed_everything

logger = logging.getLogger("basicsr.train")


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 75 when a signal stopped the run after a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_option_arguments(parser)
    args = parser.parse_args(argv)
    answer = answer_from_args(args)
    if answer is not None:
        sys.stdout.write(answer)
        return 0
    options = options_from_args(args)
    training, _ = options.training()
    adopt_launcher(args.launcher, args.local_rank)
    device = default_device()
    init_distributed(device, training.timeout, training.backend)
    try:
        if args.fast_forward:
            return fast_forward(options, device)
        return train(options, device, args.auto_resume or was_restarted())
    finally:
        close_distributed()


def train(options: Options, device: torch.device, auto_resume: bool) -> int:
    """Build the stage and run it. A folder left by an earlier run of the same name is set aside, never overwritten."""
    folder = Path(options.path.experiments_root) / options.name
    held = hold_log()  # what building says belongs into the run's log, whose folder is made only after it went well
    resume_state = Path(options.path.resume_state) if options.path.resume_state else None
    seed_everything(options.manual_seed)
    stage = build_stage(options, device)
    trainer = Trainer(options, stage, folder, resume_state, auto_resume)
    summary = model_summary(stage, trainer.train_data) if is_main() else {}
    if is_main():  # last of all: a start that fails leaves the earlier run where it is
        with writes_below(folder):
            prepare_folder(folder, options, trainer.resumed is not None, held, summary)
    barrier()
    return trainer.run()


def prepare_folder(folder: Path, options: Options, resuming: bool, held: MemoryHandler, summary: Summary) -> None:
    """Make the experiment's folder and write down what runs: options, command, versions, size of the networks."""
    if folder.exists() and not resuming:
        aside = folder.with_name(f"{folder.name}_archived_{time.strftime('%Y%m%d_%H%M%S')}")
        folder.rename(aside)
        logger.warning("%s holds an earlier run: it is now %s (use --auto_resume to go on instead)", folder, aside)
    folder.mkdir(parents=True, exist_ok=True)
    log_to_file(folder / "train.log", held)
    (folder / "options.yml").write_text(resolved(options), encoding="utf-8")
    run = {
        "command": shlex.join(sys.argv),
        "world_size": os.environ.get("WORLD_SIZE", "1"),
        **versions(),
        "networks": summary,
    }
    (folder / "run.json").write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    log_summary(summary)


if __name__ == "__main__":
    run_main(main)
