"""Figures of a run between two lines of its log: means of the losses, and how fast the run goes.

Losses are summed on the device and read where a line is printed, so that no step waits for the device.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from basicsr.utils.dist_util import all_gather_objects

GIB = 2**30
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes


class MeanFigures:
    """Mean of each figure over the iterations since the last line, and over the ranks."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Sum on the device."""
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """The means, by name; the sums begin anew. All ranks call it; a rank may lack a figure."""
        names = list(self._sums)
        sums = torch.stack([self._sums[name] for name in names]).tolist() if names else []
        own = {name: total / self._counts[name] for name, total in zip(names, sums, strict=True)}
        self._sums, self._counts = {}, {}
        shares = all_gather_objects(own)
        found = {
            name: [share[name] for share in shares if name in share] for name in sorted({n for s in shares for n in s})
        }
        return {name: sum(values) / len(values) for name, values in found.items()}

    def state(self) -> dict[str, Any]:
        """For a checkpoint: a line after a resume tells of the same iterations as without."""
        return {name: {"sum": total.cpu(), "count": self._counts[name]} for name, total in self._sums.items()}

    def load(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Put back what `state` returned."""
        self._sums = {name: part["sum"].to(device) for name, part in state.items()}
        self._counts = {name: part["count"] for name, part in state.items()}


class Speed:
    """Clock of a run: images per second, seconds per iteration, share of the time spent waiting for data, time left.

    Args:
        total_iter: where the run ends.
        images_per_iter: of all ranks together.
    """

    def __init__(self, total_iter: int, images_per_iter: int) -> None:
        self.total_iter, self.images_per_iter = total_iter, images_per_iter
        self._since, self._iterations, self._waited, self._apart = time.perf_counter(), 0, 0.0, 0.0

    def start(self) -> None:
        """Begin anew: now."""
        self._since, self._iterations, self._waited, self._apart = time.perf_counter(), 0, 0.0, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time for data."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._waited += time.perf_counter() - start

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Time that is no part of an iteration: validation, checkpoints."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._apart += time.perf_counter() - start

    def count(self) -> None:
        """One more iteration is done."""
        self._iterations += 1

    def take(self, current_iter: int, device: torch.device) -> dict[str, float]:
        """Figures since the last call, which begin anew. `eta_s` leaves out validations and checkpoints to come."""
        elapsed = max(time.perf_counter() - self._since - self._apart, 1e-9)
        seconds = elapsed / max(self._iterations, 1)
        figures = {
            "images_per_s": self.images_per_iter / seconds,
            "s_per_iter": seconds,
            "data_share": self._waited / elapsed,
            "eta_s": seconds * (self.total_iter - current_iter),
            "peak_memory_gib": peak_memory(device) / GIB,
        }
        self.start()
        return figures


def peak_memory(device: torch.device) -> int:
    """Bytes that the run held at most: allocated on the GPU, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT


def speed_line(figures: Mapping[str, float]) -> str:
    """The figures of `Speed.take` for a person."""
    return (
        f"{figures['images_per_s']:.1f} images/s, {figures['s_per_iter']:.3f} s/iter, "
        f"{100 * figures['data_share']:.0f} % waiting for data, left {timedelta(seconds=round(figures['eta_s']))}, "
        f"peak memory {figures['peak_memory_gib']:.2f} GiB"
    )


def figure_line(title: str, current_iter: int, values: Mapping[str, float]) -> str:
    """One line of the log: `title  iter 100  l_g_pix 0.0123  lr_g 1.0e-04`."""
    figures = "  ".join(
        f"{name} {value:.3e}" if name.startswith("lr") else f"{name} {value:.4f}" for name, value in values.items()
    )
    return f"{title}  iter {current_iter}  {figures}"
