"""What a training has left of itself: its options, the sizes of its networks, its curves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from basicsr.evaluation.charts import Curves, read_curves
from basicsr.utils.errors import UserError

OPTIONS, RUN, METRICS_LOG = "options.yml", "run.json", "metrics.jsonl"


@dataclass(frozen=True)
class Training:
    """One training. `options` are those that it ran with, `run` is its run.json."""

    name: str
    options: dict[str, Any]
    run: dict[str, Any]
    curves: Curves

    @property
    def total_iter(self) -> int:
        """Iterations that it was asked for."""
        return int(self.options["train"]["total_iter"])

    @property
    def iterations_text(self) -> str:
        """`1200`, or `400 of 1200` where the log ends before the last line that a whole run writes."""
        last = int(max(iterations[-1] for iterations, _ in self.curves.values()))
        whole = last + int(self.options["logger"]["print_freq"]) > self.total_iter
        return str(self.total_iter) if whole else f"{last} of {self.total_iter}"

    @property
    def train_data(self) -> dict[str, Any]:
        """Options of its training data."""
        found: dict[str, Any] = self.options["datasets"]["train"]
        return found


def read_training(folder: Path) -> Training | None:
    """The training of an experiment's folder; None where there is none.

    Raises:
        UserError: a file of it is missing or broken.
    """
    if not folder.is_dir():
        return None
    try:
        options = yaml.safe_load((folder / OPTIONS).read_text(encoding="utf-8"))
        run = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{folder}: cannot be read as the folder of a training ({error})") from error
    if not isinstance(options, dict) or not isinstance(options.get("train"), dict):
        raise UserError(f"{folder / OPTIONS}: holds no options of a training (no section 'train')")
    return Training(folder.name, options, run, read_curves(folder / METRICS_LOG))
