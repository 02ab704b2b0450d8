"""Where a run writes what it measures: log file, TensorBoard, metrics.jsonl. Only the main process writes."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Mapping
from logging.handlers import MemoryHandler
from pathlib import Path

import torch
from torch import Tensor

from basicsr.utils.dist_util import is_main

logger = logging.getLogger(__name__)

HELD_LINES = 10_000


def hold_log() -> MemoryHandler:
    """Keep the log lines of this package until `log_to_file` knows where they belong."""
    held = MemoryHandler(HELD_LINES, flushLevel=logging.CRITICAL + 1)
    logging.getLogger("basicsr").addHandler(held)
    return held


def log_to_file(path: Path, held: MemoryHandler) -> None:
    """Send the held and all further log lines of this package to `path` as well, with time and level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s: %(message)s"))
    held.setTarget(handler)
    held.flush()
    package = logging.getLogger("basicsr")
    package.removeHandler(held)
    package.addHandler(handler)


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "none",
        "platform": platform.platform(),
    }


class MetricLog:
    """Scalars and pictures of a run: the same keys in metrics.jsonl and in TensorBoard.

    Args:
        folder: of the experiment.
        use_tensorboard: also write event files to `<folder>/tb_logger`.
        resume_iter: lines of later iterations (of a run that was killed) are dropped from metrics.jsonl.
    """

    def __init__(self, folder: Path, use_tensorboard: bool, resume_iter: int = 0) -> None:
        self.path = folder / "metrics.jsonl"
        self._board = None
        if not is_main():
            return
        folder.mkdir(parents=True, exist_ok=True)
        _drop_lines_after(self.path, resume_iter)
        if use_tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # imports slowly

            self._board = SummaryWriter(str(folder / "tb_logger"), purge_step=resume_iter + 1 if resume_iter else None)

    def scalars(self, current_iter: int, values: Mapping[str, float]) -> None:
        """Add a line to metrics.jsonl and a point to each curve; losses (l_*) stand under losses/."""
        if not is_main():
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"iter": current_iter, **values}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"losses/{name}" if name.startswith("l_") else name, value, current_iter)

    def picture(self, current_iter: int, name: str, image: Tensor) -> None:
        """A picture, uint8 RGB (3, H, W)."""
        if self._board is not None:
            self._board.add_image(name, image, current_iter)

    def close(self) -> None:
        """Flush what is still in memory."""
        if self._board is not None:
            self._board.close()


def _drop_lines_after(path: Path, last_iter: int) -> None:
    """Keep the lines of iterations up to `last_iter`; a cut-off last line of a killed run goes too."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["iter"] <= last_iter:
                kept.append(line)
        except json.JSONDecodeError:
            logger.warning("%s: dropped a line that a killed run left half written", path)
    path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
