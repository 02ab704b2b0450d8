"""The training loop: one for all stages.

The loop knows iterations, optimisers, checkpoints and logs; what an iteration computes is the stage's affair.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from basicsr.config.options import Options
from basicsr.engine.checkpoint import Checkpoints, TrainState
from basicsr.engine.gradient_steps import GradientSteps
from basicsr.engine.loaders import batches, build_dataset, train_loader
from basicsr.engine.validator import Validator, picture_grid
from basicsr.models.base_model import BaseModel, Batch
from basicsr.recognizers import Recognizer
from basicsr.utils.dist_util import all_reduce_mean, bare_net, is_main, world_size
from basicsr.utils.errors import UserError
from basicsr.utils.logger import MetricLog
from basicsr.utils.weights import sha256_of

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
EXIT_STOPPED = 75  # EX_TEMPFAIL: stopped by a signal after a checkpoint; start again with --auto_resume


class Trainer:
    """Trains a stage. Nothing is written before `run`: a start that fails must leave an earlier run as it is.

    Args:
        options: of the run.
        stage: built and on the device.
        folder: of the experiment.
        resume_state: `.state` file to go on from; None starts at iteration 0.
    """

    def __init__(self, options: Options, stage: BaseModel, folder: Path, resume_state: Path | None = None) -> None:
        self.options, self.stage, self.folder = options, stage, folder
        self.train_options, self.train_set = options.training()
        self.train_data = build_dataset(self.train_set)
        self.steps = GradientSteps(stage, self.train_options)
        self.state = TrainState(stage, self.steps.ema, self.steps.optimizers)
        self.checkpoints = Checkpoints(folder, _network_specs(options, stage.identity), options.logger.keep_last)
        if resume_state is not None:
            self.checkpoints.load(resume_state, self.state)
            logger.info("resumed %s after iteration %d", resume_state, self.state.current_iter)
        self.log = MetricLog(folder, options.logger.use_tb_logger)
        self.validator = None
        if options.val is not None:
            trains = None if stage.identity is None else stage.identity.spec.sha256
            self.validator = Validator(options, options.val, folder, stage.device, trains)
        self.stop_signal: int | None = None
        self._sums: dict[str, Tensor] = {}
        self._num_summed: dict[str, int] = {}

    def run(self) -> int:
        """Train to the last iteration. Returns 0, or EXIT_STOPPED after a signal (a checkpoint is written then)."""
        previous = {number: signal.signal(number, self._note_signal) for number in STOP_SIGNALS}
        try:
            self.log.open(self.state.current_iter)
            return self._run()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self.log.close()

    def _run(self) -> int:
        options, state, total = self.options, self.state, self.train_options.total_iter
        freq, start = options.logger, state.current_iter
        for batch in self._batches(total):
            if state.current_iter == start:
                self.stage.check_start(batch)
            state.current_iter += 1
            values, restored = self.steps.iterate(batch, state.current_iter)
            self._add_to_log(values)
            if self._due(freq.print_freq) or state.current_iter == total:
                self._log_losses(batch)
            if freq.image_freq is not None and self._due(freq.image_freq) and restored is not None:
                self.log.picture(state.current_iter, "train/lq_ref_restored_gt", picture_grid(batch, restored, 4))
            if options.val is not None and (self._due(options.val.val_freq) or state.current_iter == total):
                self._validate()
            if self._due(freq.save_checkpoint_freq) or state.current_iter == total or self._stopping():
                self.checkpoints.save(state)
            if self._stopping():
                logger.warning("stopped by signal after iteration %d, checkpoint written", state.current_iter)
                return EXIT_STOPPED
        if is_main():
            self.checkpoints.save_networks(state, "latest")
        return 0

    def _batches(self, total: int) -> Iterator[Batch]:
        """Batches from where the run stands to `total`, behind a progress bar with images/s and the time left."""
        remaining = total - self.state.current_iter
        if remaining <= 0:
            logger.warning("nothing to do: iteration %d of %d is done already", self.state.current_iter, total)
            return
        loader = train_loader(self.train_data, self.train_set, self.options.manual_seed, self.state.current_iter)
        images = self.train_set.loader.batch_size_per_gpu * world_size()
        bar = tqdm(total=total, initial=self.state.current_iter, desc=self.options.name, disable=not is_main())
        start = time.perf_counter()
        with bar:
            for count, batch in enumerate(islice(self._read(batches(loader, self.stage.device)), remaining), start=1):
                yield batch
                seconds = time.perf_counter() - start
                bar.set_postfix_str(f"{images * count / seconds:.1f} images/s", refresh=False)
                bar.update()

    def _read(self, source: Iterator[Batch]) -> Iterator[Batch]:
        """`source`; where a batch cannot be read on any rank, what all of them have finished is saved first."""
        while True:
            batch, failure = None, None
            try:
                batch = next(source)
            except Exception as error:  # raised again below, after the other ranks have heard of it
                failure = error
            if self._on_any_rank(failure is not None):
                if self.state.current_iter > 0:
                    self.checkpoints.save(self.state)
                    logger.warning("the data failed after iteration %d, checkpoint written", self.state.current_iter)
                raise failure or UserError("the data failed on another rank, whose message says how.")
            assert batch is not None
            yield batch

    def _add_to_log(self, values: dict[str, Tensor]) -> None:
        """Sum on the device; read only where a line is printed."""
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._num_summed[name] = self._num_summed.get(name, 0) + 1

    def _log_losses(self, batch: Batch) -> None:
        """Mean of each figure since the last line, over iterations and ranks; the costly ones of this batch; the
        learning rate."""
        means = {
            name: all_reduce_mean(total / self._num_summed[name]).item() for name, total in sorted(self._sums.items())
        }
        means |= {name: value.item() for name, value in self.stage.costly_figures(batch).items()}
        means |= {f"lr_{name}": optimizer.param_groups[0]["lr"] for name, optimizer in self.state.optimizers.items()}
        self._sums.clear()
        self._num_summed.clear()
        self.log.scalars(self.state.current_iter, means)
        logger.info(_line(self.options.name, self.state.current_iter, means))

    def _validate(self) -> None:
        """Run validation with the averaged weights and keep the best checkpoint of each figure."""
        assert self.validator is not None
        net = self.state.ema.net if self.state.ema is not None else bare_net(self.stage.net_g)
        was_training = net.training
        figures = self.validator.run(self.stage, net.eval(), self.state.current_iter, self.log)
        net.train(was_training)
        self.log.scalars(self.state.current_iter, figures)
        logger.info(_line(f"{self.options.name} validation", self.state.current_iter, figures))
        for name, value in figures.items():
            if self.validator.better(name, value, self.state.best.get(name)):
                self.state.best[name] = value
                if is_main():
                    self.checkpoints.save_networks(self.state, f"best_{name.replace('/', '_')}")

    def _due(self, freq: int) -> bool:
        return self.state.current_iter % freq == 0

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        """The iteration in flight is finished first; a second Ctrl-C stops at once."""
        if self.stop_signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.stop_signal = number

    def _stopping(self) -> bool:
        """Whether any rank got a signal: all ranks stop after the same iteration."""
        return self._on_any_rank(self.stop_signal is not None)

    def _on_any_rank(self, fact: bool) -> bool:
        """Whether `fact` holds on one of the ranks; all of them call it and get the same answer."""
        if world_size() == 1:
            return fact
        return all_reduce_mean(torch.tensor(float(fact), device=self.stage.device)).item() > 0


def _network_specs(options: Options, identity: Recognizer | None) -> dict[str, Any]:
    """What a checkpoint needs beside its weights to be used alone."""
    # the weights are in the file itself: a reader must not look for those that the training started from
    start = {key: None for key in ("vqgan_path", "model_path") if key in options.network_g}
    specs: dict[str, Any] = {"network_g": options.network_g | start}
    if identity is not None and options.network_identity is not None:
        given = options.network_identity
        specs["network_identity"] = {"path": given.path, "map_node": given.map_node, "sha256": identity.spec.sha256}
        if given.self_path is not None:
            specs["network_identity"] |= {"self_path": given.self_path, "self_sha256": sha256_of(given.self_path)}
    return specs


def _line(title: str, current_iter: int, values: dict[str, float]) -> str:
    """One line of the log: `title  iter 100  l_g_pix 0.0123  lr_g 1.0e-04`."""
    figures = "  ".join(
        f"{name} {value:.3e}" if name.startswith("lr") else f"{name} {value:.4f}" for name, value in values.items()
    )
    return f"{title}  iter {current_iter}  {figures}"
