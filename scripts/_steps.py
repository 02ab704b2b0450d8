"""A chain of programs in which a step that is done is not done again. For the demo and for experiments."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import _root

from basicsr.utils.errors import UserError

logger = logging.getLogger("steps")


def all_restored(results: Path) -> bool:
    """Whether a results.json is that of a restoration that went to its end: one that was cut off leaves one, too."""
    return results.exists() and bool(json.loads(results.read_text(encoding="utf-8")).get("complete", True))


class Step(NamedTuple):
    """A Python program with its arguments, and the file that says whether it is done: by its presence as a rule."""

    title: str
    command: Sequence[str]
    makes: Path
    is_done: Callable[[Path], bool] = Path.exists


def run_step(step: Step, environment: Mapping[str, str] | None = None, log: Path | None = None) -> None:
    """Run one step in the repository root.

    Args:
        environment: variables beside those of this process.
        log: file for its output; None: its own progress goes to the terminal.
    Raises:
        UserError: it failed.
    """
    if step.is_done(_root.ROOT / step.makes):
        logger.info("== %s: done before (%s)", step.title, step.makes)
        return
    logger.info("== %s: python %s", step.title, shlex.join(step.command))
    start = time.perf_counter()
    # OpenMP threads that wait spin for a moment only: for long, and they take the cores from whatever else runs there;
    # not at all, and a training of small networks is a third slower
    variables = {"GOMP_SPINCOUNT": "1000", **os.environ, **(environment or {})}
    command = [sys.executable, *step.command]
    with contextlib.ExitStack() as stack:
        output = None if log is None else stack.enter_context(log.open("w", encoding="utf-8"))
        code = subprocess.run(
            command,
            cwd=_root.ROOT,
            env=variables,
            check=False,
            stdout=output,
            stderr=subprocess.STDOUT if log else None,
        ).returncode
    if code != 0:
        where = "above" if log is None else f"in {log}"
        raise UserError(f"the step '{step.title}' ended with code {code}; its reason stands {where}.")
    logger.info("== %s: %.0f s", step.title, time.perf_counter() - start)
