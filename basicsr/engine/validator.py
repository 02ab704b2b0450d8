"""Validation: every rank restores its share with the averaged weights, all figures are brought together.

Shapes: B batch; H, W pixels.
"""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from basicsr.config.options import Options, ValOptions
from basicsr.engine.loaders import batches, val_loader
from basicsr.engine.reader import Reader
from basicsr.metrics.base_metric import Metric, MetricUnavailable
from basicsr.models.base_model import BaseModel, Batch
from basicsr.utils.dist_util import all_gather_objects, is_main, rank, world_size
from basicsr.utils.img_util import imwrite, tensor2img, to_uint8
from basicsr.utils.logger import MetricLog
from basicsr.utils.registry import METRIC_REGISTRY

logger = logging.getLogger(__name__)

NUM_ROWS = 4  # of a batch in a picture of the log


def picture_row(batch: Batch, restored: Tensor, sample: int) -> Tensor:
    """One sample side by side, degraded, reference, restored, ground truth, as [-1, 1] (3, H, n * W)."""
    pictures = [batch["lq"][sample]] if "lq" in batch else []
    if "refs" in batch:
        pictures.append(batch["refs"][sample, 0])
    pictures += [restored[sample].to(batch["gt"]), batch["gt"][sample]]
    return torch.cat([picture.detach().cpu() for picture in pictures], dim=-1)


def picture_grid(batch: Batch, restored: Tensor, num_rows: int) -> Tensor:
    """The first rows of a batch below each other, uint8 RGB (3, rows * H, n * W)."""
    rows = [picture_row(batch, restored, sample) for sample in range(min(num_rows, len(restored)))]
    return to_uint8(torch.cat(rows, dim=-2))


class Validator:
    """Runs all val sets of the options.

    Args:
        options: of the run; `options.val` must be there.
        folder: of the experiment; pictures go to `visualization/<set>/<place in the set>_<stem>_<iter>.png`.
        trained_sha256: of the recogniser that trains the stage; None where there is none.
    """

    def __init__(
        self,
        options: Options,
        val_options: ValOptions,
        folder: Path,
        device: torch.device,
        trained_sha256: str | None = None,
    ) -> None:
        self.options = val_options
        self.folder = folder / "visualization"
        self.device = device
        self.loaders = {spec.key: val_loader(spec, val_options.num_images) for spec in options.datasets_of("val")}
        self.metrics: dict[str, Metric] = {}
        for name, spec in val_options.metrics.items():
            try:
                self.metrics[name] = METRIC_REGISTRY.build(spec)
            except MetricUnavailable as error:
                logger.warning("val.metrics.%s: not available: %s", name, error)
        for metric in self.metrics.values():
            metric.to(device)
        self.trained_sha256 = trained_sha256

    def run(
        self, stage: BaseModel, net: nn.Module, current_iter: int, log: MetricLog, reader: Reader
    ) -> dict[str, float]:
        """Figures of all sets, `<set>/<metric>`, the same on every rank."""
        figures: dict[str, float] = {}
        self._say_what_is_measured()
        for name, loader in self.loaders.items():
            for metric in self.metrics.values():
                metric.reset()
            self._restore_all(stage, net, name, loader, current_iter, log, reader)
            for label, metric in self.metrics.items():
                values = [value for share in all_gather_objects(metric.values()) for value in share]
                figures[f"{name}/{label}"] = sum(values) / max(len(values), 1)
        return figures

    def _say_what_is_measured(self) -> None:
        """The conditions of each figure, before the figures: a bare `val/ids` tells neither judge nor protocol."""
        for name, metric in self.metrics.items():
            logger.info("val.metrics.%s is %s", name, metric.label)
            if self.trained_sha256 is not None and getattr(metric, "sha256", None) == self.trained_sha256:
                logger.warning(
                    "val.metrics.%s: its recogniser also trains (allow_same_recognizer), so the figure measures the "
                    "training and is no evidence of identity",
                    name,
                )

    def _restore_all(
        self,
        stage: BaseModel,
        net: nn.Module,
        name: str,
        loader: DataLoader[Any],
        current_iter: int,
        log: MetricLog,
        reader: Reader,
    ) -> None:
        place = rank()  # in the set: this rank has every world_size-th picture
        source = batches(loader, self.device)
        for number in range(max(all_gather_objects(len(loader)))):
            batch = reader.next(source, f"batch {number} of {name}")
            if batch is None:  # the share of another rank is larger
                continue
            restored = stage.restore(batch, net, **self.options.restore)
            for metric in self.metrics.values():
                metric.update(restored, batch["gt"])
            if number == 0 and is_main():
                log.picture(current_iter, f"{name}/lq_ref_restored_gt", picture_grid(batch, restored, NUM_ROWS))
                self._show_sweep(stage, net, name, batch, current_iter, log)
            if self.options.save_img:
                for sample, gt_path in enumerate(batch["gt_path"]):
                    # the place keeps apart two people whose photos have equal names
                    file = f"{place:05d}_{Path(gt_path).stem}_{current_iter}.png"
                    imwrite(self.folder / name / file, tensor2img(picture_row(batch, restored, sample)))
                    place += world_size()

    def _show_sweep(
        self, stage: BaseModel, net: nn.Module, name: str, batch: Batch, current_iter: int, log: MetricLog
    ) -> None:
        """The first rows of a batch restored with each w of `w_sweep`, side by side between lq, reference and gt."""
        weights = self.options.w_sweep
        if not weights or "w" not in inspect.signature(stage.restore).parameters:
            return
        few = {key: value[:NUM_ROWS] for key, value in batch.items()}
        sweep = [stage.restore(few, net, **{**self.options.restore, "w": w}) for w in weights]
        title = "_".join(f"{w:g}" for w in weights)
        log.picture(current_iter, f"{name}/lq_ref_w_{title}_gt", picture_grid(few, torch.cat(sweep, dim=-1), NUM_ROWS))

    def better(self, figure: str, value: float, best: float | None) -> bool:
        """Whether `value` of the figure `<set>/<metric>` beats `best`."""
        if best is None:
            return True
        higher = self.metrics[figure.rpartition("/")[2]].better == "higher"
        return value > best if higher else value < best
