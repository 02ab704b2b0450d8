"""Weights & Biases, for those who use it: `pip install id-codeformer[wandb]`. The only file that imports it.

A training never ends because of it: without a login or a network the run is kept on disk (`wandb sync` sends it later).
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from basicsr.utils.errors import OptionError
from basicsr.utils.text_util import write_text

logger = logging.getLogger(__name__)


class WandbBoard:
    """One W&B run for one experiment, the same after each resume.

    Args:
        folder: of the experiment; W&B's files go to `<folder>/wandb`, the run's id to `<folder>/wandb_id`.
        project: of W&B.
        name: of the run.
        config: options of the run as plain values.
        resume_id: of a run at W&B to go on with; None: that of this folder, or a new one.
    Raises:
        OptionError: the package is not installed.
    """

    def __init__(
        self, folder: Path, project: str, name: str, config: Mapping[str, Any], resume_id: str | None = None
    ) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise OptionError(
                f"logger.wandb.project: '{project}' asks for Weights & Biases, but the package wandb is not installed. "
                "Install it (pip install wandb), or take logger.wandb out."
            )
        self.folder, self.project, self.name, self.config = folder, project, name, dict(config)
        self.resume_id = resume_id
        self._run: Any = None

    def open(self) -> None:
        """Start the run at W&B or go on with it; offline where W&B cannot be reached or knows nobody here."""
        import wandb

        id_file = self.folder / "wandb_id"
        run_id = self.resume_id or (id_file.read_text(encoding="utf-8").strip() if id_file.exists() else None)
        settings: dict[str, Any] = {
            "project": self.project,
            "name": self.name,
            "config": self.config,
            "dir": str(self.folder),
            "id": run_id,
            "resume": "allow",
        }
        try:
            self._run = wandb.init(**settings)  # WANDB_MODE=offline and WANDB_MODE=disabled hold
        except wandb.errors.Error as error:
            logger.warning(
                "W&B cannot be used online (%s): its files stay in %s, `wandb sync` sends them",
                str(error).splitlines()[0] if str(error) else type(error).__name__,
                self.folder / "wandb",
            )
            self._run = wandb.init(**settings, mode="offline")
        self._run.define_metric("*", step_metric="iter")  # W&B's own step must never go back; after a kill ours does
        write_text(id_file, f"{self._run.id}\n")

    def log(self, current_iter: int, values: Mapping[str, float]) -> None:
        """A point of each curve."""
        self._run.log({"iter": current_iter, **values})

    def picture(self, current_iter: int, name: str, image: Tensor) -> None:
        """A picture, uint8 RGB (3, H, W)."""
        import wandb

        self._run.log({"iter": current_iter, name: wandb.Image(image.permute(1, 2, 0).cpu().numpy())})

    def close(self) -> None:
        """Send what is left."""
        if self._run is not None:
            self._run.finish()
            self._run = None
