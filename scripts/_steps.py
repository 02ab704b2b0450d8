"""A chain of programs in which a step that is done is not done again. For the demo and for experiments."""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import _root

from basicsr.utils.errors import UserError

logger = logging.getLogger("steps")


class Step(NamedTuple):
    """A Python program with its arguments, and the file whose presence says that it is done."""

    title: str
    command: Sequence[str]
    makes: Path


def run_step(step: Step) -> None:
    """Run one step in the repository root; its own progress goes to the terminal.

    Raises:
        UserError: it failed.
    """
    if (_root.ROOT / step.makes).exists():
        logger.info("== %s: done before (%s)", step.title, step.makes)
        return
    logger.info("== %s: python %s", step.title, shlex.join(step.command))
    start = time.perf_counter()
    # on a machine that does other work as well, OpenMP threads that spin while they wait cost ten times the work itself
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    command = [sys.executable, *step.command]
    code = subprocess.run(command, cwd=_root.ROOT, env=environment, check=False).returncode
    if code != 0:
        raise UserError(f"the step '{step.title}' ended with code {code}; its reason stands above.")
    logger.info("== %s: %.0f s", step.title, time.perf_counter() - start)
