"""The training loop: one for all stages.

The loop knows iterations, optimisers, checkpoints and logs; what an iteration computes is the stage's affair.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from basicsr.config.options import Options, to_plain
from basicsr.engine.checkpoint import Checkpoints, TrainState
from basicsr.engine.finite_guard import NonFiniteLossError
from basicsr.engine.gradient_steps import GradientSteps
from basicsr.engine.interrupts import EXIT_STOPPED, Interrupts
from basicsr.engine.loaders import batches, build_dataset, train_loader
from basicsr.engine.reader import DataError, Reader, StopRun
from basicsr.engine.run_log import MeanFigures, Speed, figure_line, speed_line
from basicsr.engine.validator import Validator, picture_grid
from basicsr.engine.watchdog import Watchdog
from basicsr.models.base_model import BaseModel, Batch
from basicsr.recognizers import Recognizer
from basicsr.utils.dist_util import bare_net, barrier, is_main, lost_rank, world_size
from basicsr.utils.errors import UserError
from basicsr.utils.logger import MetricLog
from basicsr.utils.wandb_board import WandbBoard
from basicsr.utils.weights import sha256_of

logger = logging.getLogger(__name__)


class Trainer:
    """Trains a stage. Nothing is written before `run`: a start that fails must leave an earlier run as it is.

    Args:
        options: of the run.
        stage: built and on the device.
        folder: of the experiment.
        resume_state: `.state` file to go on from; None starts at iteration 0.
        auto_resume: without a `resume_state`, go on from the last good checkpoint of the folder, if it has any.
    """

    def __init__(
        self,
        options: Options,
        stage: BaseModel,
        folder: Path,
        resume_state: Path | None = None,
        auto_resume: bool = False,
    ) -> None:
        self.options, self.stage, self.folder = options, stage, folder
        self.train_options, self.train_set = options.training()
        self.train_data = build_dataset(self.train_set)
        self.steps = GradientSteps(stage, self.train_options)
        scaler = self.steps.scaler if self.steps.is_fp16 else None
        self.state = TrainState(stage, self.steps.ema, self.steps.optimizers, scaler)
        keep = options.logger.keep_last, options.logger.keep_every
        self.checkpoints = Checkpoints(folder, _network_specs(options, stage.identity), *keep)
        self.resumed = resume_state
        if resume_state is not None:
            self.checkpoints.load(resume_state, self.state)
        elif auto_resume:
            self.resumed = self.checkpoints.load_last(self.state)
        self.means = MeanFigures()
        parts = self.train_options.accumulate
        self.images_per_iter = self.train_set.loader.batch_size_per_gpu * parts * world_size()
        self.speed = Speed(self.train_options.total_iter, self.images_per_iter)
        self.skipped = 0  # iterations in a row that a loss was not finite
        if self.resumed is not None:
            self.means.load(self.state.log, stage.device)
            logger.info("resumed %s after iteration %d", self.resumed, self.state.current_iter)
        self.log = MetricLog(folder, options.logger.use_tb_logger, _wandb_board(options, folder))
        self.validator = None
        if options.val is not None:
            trains = None if stage.identity is None else stage.identity.spec.sha256
            self.validator = Validator(options, options.val, folder, stage.device, trains)
        self.interrupts = Interrupts()
        self.watchdog = Watchdog(self.train_options.timeout)
        self.reader = Reader(self.interrupts, self.watchdog)

    def run(self) -> int:
        """Train to the last iteration. Returns 0, or EXIT_STOPPED after a signal (a checkpoint is written then).

        Raises:
            UserError: a fault of the data, the disk, the losses or another rank. The last checkpoint is whole.
        """
        with self.watchdog, self.interrupts:
            try:
                if is_main():
                    self.checkpoints.remove_unfinished()
                self.log.open(self.state.current_iter)
                code = self._run()
                self.log.close()
                barrier()  # torchrun ends all ranks when the first one leaves
                return code
            except RuntimeError as error:
                if not lost_rank(error):
                    raise
                raise UserError(
                    f"another rank is gone, or did not answer within {self.train_options.timeout:g} s (train.timeout); "
                    "what it said stands in its own output. The last checkpoint is untouched; --auto_resume goes on "
                    "from it."
                ) from error
            finally:
                self.log.close()

    def _run(self) -> int:
        state, start = self.state, self.state.current_iter
        try:
            if state.validation_due:
                self._validate()
            for batch in self._batches(self.train_options.total_iter):
                if state.current_iter == start:
                    self.stage.check_start(batch)
                state.current_iter += 1
                state.samples += self.images_per_iter
                part, restored = self._step(batch)
                self._after_step(part, restored)
        except StopRun:
            self._save()
            logger.warning("stopped by signal after iteration %d, checkpoint written", state.current_iter)
            return EXIT_STOPPED
        except DataError as fault:
            if state.current_iter > 0:
                self._save()
                logger.warning("the data failed after iteration %d, checkpoint written", state.current_iter)
            raise fault.__cause__ or fault from None
        if is_main():
            self.checkpoints.save_networks(state, "latest")
        return 0

    def _step(self, batch: Batch) -> tuple[Batch, Tensor | None]:
        """One iteration; where a loss is not finite it is skipped as often as the options allow, on all ranks.

        Returns:
            A part of the batch (all of it without accumulation) and its restored pictures, if any.
        """
        values, part, restored = self.steps.iterate(batch, self.state.current_iter)
        try:
            if self._reads_the_device():
                self.steps.require_finite()
        except NonFiniteLossError as error:
            self.skipped += 1
            if self.skipped > self.train_options.skip_non_finite:
                raise
            logger.warning("skipped (%d in a row): %s", self.skipped, error)
            return part, None
        self.skipped = 0
        self.means.add(values)
        return part, restored

    def _reads_the_device(self) -> bool:
        """Whether this iteration is one after which the device is waited for anyway; on a CPU all are.

        Skipping needs to know at once, so that the iteration does not count.
        """
        freq, now = self.options.logger, self.state.current_iter
        freqs = [freq.print_freq, freq.save_checkpoint_freq]
        if self.options.val is not None:
            freqs.append(self.options.val.val_freq)
        at_once = self.stage.device.type == "cpu" or self.train_options.skip_non_finite > 0
        return at_once or now == self.train_options.total_iter or any(now % freq == 0 for freq in freqs)

    def _after_step(self, batch: Batch, restored: Tensor | None) -> None:
        """What the options ask for after this iteration: a line, a picture, a validation, a checkpoint."""
        freq, val, now = self.options.logger, self.options.val, self.state.current_iter
        last = now == self.train_options.total_iter
        self.speed.count()
        if now % freq.print_freq == 0 or last:
            self._log_losses(batch)
        if freq.image_freq is not None and now % freq.image_freq == 0 and restored is not None:
            self.log.picture(now, "train/lq_ref_restored_gt", picture_grid(batch, restored, 4))
        if val is not None and (now % val.val_freq == 0 or last):
            self._validate()
        if now % freq.save_checkpoint_freq == 0 or last:
            self._save()

    def _batches(self, total: int) -> Iterator[Batch]:
        """Batches from where the run stands to `total`, behind a progress bar with images/s and the time left."""
        now = self.state.current_iter
        if now >= total:
            logger.warning("nothing to do: iteration %d of %d is done already", now, total)
            return
        parts = self.train_options.accumulate
        loader = train_loader(self.train_data, self.train_set, self.options.manual_seed, self.state.samples, parts)
        source = batches(loader, self.stage.device)
        start = time.perf_counter()
        with tqdm(total=total, initial=now, desc=self.options.name, disable=not is_main()) as bar:
            self.speed.start()
            for number in range(now + 1, total + 1):
                with self.speed.waiting():
                    batch = self.reader.next(source, f"the batch of iteration {number}")
                assert batch is not None  # the sampler never ends
                yield batch
                seconds = time.perf_counter() - start
                bar.set_postfix_str(f"{self.images_per_iter * (number - now) / seconds:.1f} images/s", refresh=False)
                bar.update()

    def _save(self) -> None:
        """Write the checkpoint of this iteration."""
        self.watchdog.beat(f"writing the checkpoint of iteration {self.state.current_iter}")
        start = time.perf_counter()
        with self.speed.apart():
            self.state.log = self.means.state()
            self.checkpoints.save(self.state)
        logger.debug("checkpoint of iteration %d: %.2f s", self.state.current_iter, time.perf_counter() - start)

    def _log_losses(self, batch: Batch) -> None:
        """Mean of each figure since the last line, over iterations and ranks; the costly ones of this batch; the
        learning rate. Speed and memory are those of the main rank."""
        now = self.state.current_iter
        means = self.means.take()
        means |= {name: value.item() for name, value in self.stage.costly_figures(batch).items()}
        means |= {f"lr_{name}": optimizer.param_groups[0]["lr"] for name, optimizer in self.state.optimizers.items()}
        speed = self.speed.take(now, self.stage.device)
        self.log.scalars(now, means)
        self.log.speed(now, speed)
        logger.info("%s  |  %s", figure_line(self.options.name, now, means), speed_line(speed))

    def _validate(self) -> None:
        """Run validation with the averaged weights and keep the best checkpoint of each figure."""
        assert self.validator is not None
        now, self.state.validation_due = self.state.current_iter, True  # until it is done, should a signal come
        net = self.state.ema.net if self.state.ema is not None else bare_net(self.stage.net_g)
        was_training = net.training
        with self.speed.apart():
            try:
                figures = self.validator.run(self.stage, net.eval(), now, self.log, self.reader)
            finally:
                net.train(was_training)
        self.state.validation_due = False
        self.log.scalars(now, figures)
        logger.info(figure_line(f"{self.options.name} validation", now, figures))
        for name, value in figures.items():
            if self.validator.better(name, value, self.state.best.get(name)):
                self.state.best[name] = value
                if is_main():
                    self.checkpoints.save_networks(self.state, f"best_{name.replace('/', '_')}")


def _wandb_board(options: Options, folder: Path) -> WandbBoard | None:
    """W&B where the options name a project."""
    wandb = options.logger.wandb
    if wandb is None or wandb.project is None:
        return None
    return WandbBoard(folder, wandb.project, options.name, to_plain(options), wandb.resume_id)


def _network_specs(options: Options, identity: Recognizer | None) -> dict[str, Any]:
    """What a checkpoint needs beside its weights to be used alone."""
    # the weights are in the file itself: a reader must not look for those that the training started from
    start = {key: None for key in ("vqgan_path", "model_path") if key in options.network_g}
    specs: dict[str, Any] = {"network_g": options.network_g | start}
    if identity is not None and options.network_identity is not None:
        given = options.network_identity
        specs["network_identity"] = {"path": given.path, "map_node": given.map_node, "sha256": identity.spec.sha256}
        for key in ("typical_norm", "same_person_cosine"):
            if getattr(given, key) is not None:
                specs["network_identity"][key] = getattr(given, key)
        if given.self_path is not None:
            specs["network_identity"] |= {"self_path": given.self_path, "self_sha256": sha256_of(given.self_path)}
    return specs
