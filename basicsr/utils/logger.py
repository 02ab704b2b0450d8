"""Where a run writes what it measures: log file, metrics.jsonl, TensorBoard, W&B. Only the main process writes."""

from __future__ import annotations

import json
import logging
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from basicsr.utils.dist_util import is_main
from basicsr.utils.errors import UserError
from basicsr.utils.text_util import write_text
from basicsr.utils.wandb_board import WandbBoard

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
    handler = _RunFileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s: %(message)s"))
    held.setTarget(handler)
    held.flush()
    package = logging.getLogger("basicsr")
    package.removeHandler(held)
    package.addHandler(handler)


class _RunFileHandler(logging.FileHandler):
    """A log file that stops the run where a line cannot be written, instead of a stack trace for each line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            logging.getLogger("basicsr").removeHandler(self)  # what is said of it must not come back here
            raise UserError(_unwritable(self.baseFilename, error)) from error
        super().handleError(record)


def _unwritable(path: str | Path, error: OSError) -> str:
    return (
        f"{path}: cannot be written ({error.strerror or error}). Make room there or change its permissions, or name "
        "another folder in path.experiments_root. Checkpoints written before are untouched."
    )


@contextmanager
def writes_below(folder: Path) -> Iterator[None]:
    """Turn a disk that is full, read-only or otherwise unfit into one line that names the path."""
    try:
        yield
    except OSError as error:
        raise UserError(_unwritable(error.filename or folder, error)) from error


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "none",
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "platform": platform.platform(),
        "git_commit": git_commit(Path(__file__).resolve().parents[2]),
    }


def git_commit(folder: Path) -> str:
    """Commit of the checkout in `folder`, with '-dirty' where files differ from it; 'none' where it is no checkout."""
    if not (folder / ".git").exists():  # an installed copy may lie inside somebody else's checkout
        return "none"
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # no git on this machine, or it does not trust the folder
        return "none"
    return found.stdout.strip()


class MetricLog:
    """Scalars and pictures of a run: metrics.jsonl, TensorBoard, Weights & Biases.

    Args:
        folder: of the experiment; nothing is written before `open`.
        use_tensorboard: also write event files to `<folder>/tb_logger`.
        wandb: also send everything to W&B; None: not.
    """

    def __init__(self, folder: Path, use_tensorboard: bool, wandb: WandbBoard | None = None) -> None:
        self.folder = folder
        self.path = folder / "metrics.jsonl"
        self.use_tensorboard = use_tensorboard
        self.wandb = wandb
        self._board: Any = None

    def open(self, resume_iter: int = 0) -> None:
        """Take the place in the folder. Lines after `resume_iter` (of a run that was killed) leave metrics.jsonl."""
        if not is_main():
            return
        with writes_below(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            _drop_lines_after(self.path, resume_iter)
            if self.use_tensorboard:
                from torch.utils.tensorboard import SummaryWriter  # imports slowly

                events = str(self.folder / "tb_logger")
                self._board = SummaryWriter(events, purge_step=resume_iter + 1 if resume_iter else None)
            if self.wandb is not None:
                self.wandb.open()

    def scalars(self, current_iter: int, values: Mapping[str, float]) -> None:
        """Add a line to metrics.jsonl and a point to each curve; losses (l_*) stand under losses/."""
        if not is_main():
            return
        with writes_below(self.folder), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"iter": current_iter, **values}) + "\n")
        self._curves(current_iter, {f"losses/{n}" if n.startswith("l_") else n: v for n, v in values.items()})

    def speed(self, current_iter: int, values: Mapping[str, float]) -> None:
        """Points of the curves under speed/. Not in metrics.jsonl: that file is the same however often a run stops."""
        if is_main():
            self._curves(current_iter, {f"speed/{name}": value for name, value in values.items()})

    def _curves(self, current_iter: int, values: Mapping[str, float]) -> None:
        with writes_below(self.folder):
            if self._board is not None:
                for name, value in values.items():
                    self._board.add_scalar(name, value, current_iter)
            if self.wandb is not None:
                self.wandb.log(current_iter, values)

    def picture(self, current_iter: int, name: str, image: Tensor) -> None:
        """A picture, uint8 RGB (3, H, W)."""
        if not is_main():
            return
        with writes_below(self.folder):
            if self._board is not None:
                self._board.add_image(name, image, current_iter)
            if self.wandb is not None:
                self.wandb.picture(current_iter, name, image)

    def close(self) -> None:
        """Flush what is still in memory."""
        with writes_below(self.folder):
            if self._board is not None:
                self._board.close()
                self._board = None
            if self.wandb is not None and is_main():
                self.wandb.close()


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
    write_text(path, "".join(f"{line}\n" for line in kept))
