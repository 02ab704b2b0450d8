"""What every image metric has in common: per-image values, a label with its conditions, a direction.

Shapes: B batch; H, W pixels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from basicsr.utils.errors import UserError
from basicsr.utils.img_util import quantize

Direction = Literal["higher", "lower"]


class MetricUnavailable(UserError):  # noqa: N818 (a state that reports print, not only an error)
    """A metric cannot be computed because a weights file is missing: `<what file, where it belongs>`."""


class Metric(nn.Module, ABC):
    """Per-image figure of restored images against their ground truth.

    A subclass sets `label`, `better`, `value_range` and `protocol` and implements `score`. Where a part of the work
    depends on the ground truth alone, `reference` does that part, so that several runs can share it, and `compare` the
    rest. Images are rounded to 8 bit first, so that
    a value is that of the saved files. A module only so that `.to(device)` moves the networks inside.
    """

    label: str  # as tables print it, conditions included: "LPIPS-squeeze"
    better: Direction
    value_range: str = ""  # with the unit: "[0, 1]", "dB, 0 to inf"
    protocol: str  # one line: everything that must be equal for two values to be comparable

    def __init__(self) -> None:
        super().__init__()
        self._values: list[float] = []

    @abstractmethod
    def score(self, restored: Tensor, gt: Tensor) -> Tensor:
        """(B,) values of (B, 3, H, W) RGB [-1, 1] images that hold 8-bit levels."""

    def reference(self, gt: Tensor) -> Any:
        """What `compare` needs of (B, 3, H, W) RGB [-1, 1] ground truths that hold 8-bit levels."""
        return gt

    def compare(self, restored: Tensor, reference: Any) -> Tensor:
        """(B,) values of images like those of `score`; `score(x, gt) = compare(x, reference(gt))`."""
        return self.score(restored, reference)

    @torch.no_grad()
    def measure(self, restored: Tensor, gt: Tensor) -> Tensor:
        """(B,) float64 values of (B, 3, H, W) RGB [-1, 1] images; nothing is kept."""
        if restored.shape != gt.shape:
            raise ValueError(
                f"{self.label}: restored is {tuple(restored.shape)}, gt is {tuple(gt.shape)}; they must match"
            )
        return self.score(quantize(restored.float()), quantize(gt.float())).double()

    def update(self, restored: Tensor, gt: Tensor) -> Tensor:
        """`measure`, and keep the values for `compute`."""
        values = self.measure(restored, gt)
        self._values.extend(values.tolist())
        return values

    def values(self) -> list[float]:
        """Every value since the last `reset`, in the order of the updates."""
        return list(self._values)

    def compute(self) -> float:
        """Mean over the images seen so far."""
        if not self._values:
            raise ValueError(f"{self.label}: compute() before any update()")
        return math.fsum(self._values) / len(self._values)

    def reset(self) -> None:
        """Forget every value."""
        self._values.clear()
