"""Validation: every rank restores its share with the averaged weights, all figures are brought together.

Shapes: B batch; H, W pixels.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from basicsr.config.options import Options, ValOptions
from basicsr.engine.loaders import batches, val_loader
from basicsr.metrics.base_metric import Metric, MetricUnavailable
from basicsr.models.base_model import BaseModel, Batch
from basicsr.utils.dist_util import all_gather_objects, is_main
from basicsr.utils.img_util import imwrite, tensor2img, to_uint8
from basicsr.utils.logger import MetricLog
from basicsr.utils.registry import METRIC_REGISTRY

logger = logging.getLogger(__name__)


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
        folder: of the experiment; pictures go to `visualization/<set>/`.
    """

    def __init__(self, options: Options, val_options: ValOptions, folder: Path, device: torch.device) -> None:
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

    def run(self, stage: BaseModel, net: nn.Module, current_iter: int, log: MetricLog) -> dict[str, float]:
        """Figures of all sets, `<set>/<metric>`, the same on every rank."""
        figures: dict[str, float] = {}
        for name, loader in self.loaders.items():
            for metric in self.metrics.values():
                metric.reset()
            self._restore_all(stage, net, name, loader, current_iter, log)
            for label, metric in self.metrics.items():
                values = [value for share in all_gather_objects(metric.values()) for value in share]
                figures[f"{name}/{label}"] = sum(values) / max(len(values), 1)
        return figures

    def _restore_all(
        self, stage: BaseModel, net: nn.Module, name: str, loader: DataLoader[Any], current_iter: int, log: MetricLog
    ) -> None:
        for number, batch in enumerate(batches(loader, self.device)):
            restored = stage.restore(batch, net, **self.options.restore)
            for metric in self.metrics.values():
                metric.update(restored, batch["gt"])
            if number == 0 and is_main():
                log.picture(current_iter, f"{name}/lq_ref_restored_gt", picture_grid(batch, restored, num_rows=4))
            if self.options.save_img:
                for sample, gt_path in enumerate(batch["gt_path"]):
                    row = picture_row(batch, restored, sample)
                    imwrite(self.folder / name / f"{Path(gt_path).stem}_{current_iter}.png", tensor2img(row))

    def better(self, figure: str, value: float, best: float | None) -> bool:
        """Whether `value` of the figure `<set>/<metric>` beats `best`."""
        if best is None:
            return True
        higher = self.metrics[figure.rpartition("/")[2]].better == "higher"
        return value > best if higher else value < best
