"""A chain of programs in which a step that is done is not done again. For the demo and for experiments."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple

import _root
import torch

from basicsr.engine.interrupts import EXIT_STOPPED, STOP_SIGNALS
from basicsr.utils.cli import progress
from basicsr.utils.errors import UserError
from basicsr.utils.text_util import make_folder

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
    needs: Sequence[Path] = ()  # files of earlier steps; where one is missing, that step has failed


class Stopped(SystemExit):
    """A stop signal came and the programs under way have ended. Leaves the program with the code that says so."""


class Steps:
    """Runs steps. Between `__enter__` and `__exit__`, in the main thread, a stop signal reaches all programs under way.

    They get SIGTERM, whatever came here, and are waited for: a training writes a checkpoint first. They run in sessions
    of their own, so that a Ctrl-C comes to them once and by this way alone. A second signal kills them.
    """

    def __init__(self) -> None:
        self.stop_signal: int | None = None
        self._programs: set[subprocess.Popen[bytes]] = set()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Steps:
        self._previous = {number: signal.signal(number, self._note_stop) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if isinstance(error, Stopped):
            logger.warning("stopped by %s; the same command goes on from here", self._stopped_by())

    def run(self, step: Step, environment: Mapping[str, str] | None = None, log: Path | None = None) -> None:
        """Run one step in the repository root.

        Args:
            environment: variables beside those of this process.
            log: file for its output; None: its own progress goes to the terminal.
        Raises:
            UserError: it failed, or cannot begin since an earlier one has.
            Stopped: a stop signal came before its end.
        """
        if step.is_done(_root.ROOT / step.makes):
            logger.info("== %s: done before (%s)", step.title, step.makes)
            return
        missing = [path for path in step.needs if not (_root.ROOT / path).exists()]
        if missing:
            raise UserError(f"the step '{step.title}' was left out: {missing[0]} was not made.")
        logger.info("== %s: python %s", step.title, shlex.join(step.command))
        start = time.perf_counter()
        code = self._run_program(step.command, environment or {}, log)
        if code == 0:
            logger.info("== %s: %.0f s", step.title, time.perf_counter() - start)
        elif self.stop_signal is not None:
            raise Stopped(EXIT_STOPPED)
        else:
            where = "above" if log is None else f"in {log}"
            raise UserError(f"the step '{step.title}' ended with code {code}; its reason stands {where}.")

    def run_all(self, steps: Sequence[Step], jobs: int, logs: Path) -> list[UserError]:
        """Run steps that do not need each other, and return why some failed: one that fails does not lose the others.

        Args:
            jobs: steps at once; each gets its share of the cores and its own GPU, and writes to a file in `logs`.
        Raises:
            Stopped: a stop signal came.
        """
        jobs = min(jobs, sum(not step.is_done(_root.ROOT / step.makes) for step in steps))
        if jobs <= 1:
            return [error for step in steps if (error := self._failure_of(step)) is not None]
        make_folder(logs)
        places: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        for environment in environments(jobs):
            places.put(environment)

        def run(step: Step) -> UserError | None:
            environment = places.get()
            try:
                return self._failure_of(step, environment, logs / f"{step.title}.log")
            finally:
                places.put(environment)

        with ThreadPoolExecutor(jobs) as pool:
            futures = [pool.submit(run, step) for step in steps]
            return [error for future in progress(futures, desc="steps") if (error := future.result()) is not None]

    def _failure_of(
        self, step: Step, environment: Mapping[str, str] | None = None, log: Path | None = None
    ) -> UserError | None:
        try:
            self.run(step, environment, log)
        except UserError as error:
            logger.error("%s", error)
            return error
        return None

    def _run_program(self, command: Sequence[str], environment: Mapping[str, str], log: Path | None) -> int:
        """The exit code of a Python program, as of one that never began where a stop signal has come before."""
        with contextlib.ExitStack() as stack:
            output = None if log is None else stack.enter_context(log.open("w", encoding="utf-8"))
            if self.stop_signal is not None:
                return EXIT_STOPPED
            program = subprocess.Popen(
                [sys.executable, *command],
                cwd=_root.ROOT,
                env={**os.environ, **environment},
                stdout=output,
                stderr=subprocess.STDOUT if log else None,
                start_new_session=True,
            )
            self._programs.add(program)
            if self.stop_signal is not None:  # it came while the program began, and found it not in the set
                program.terminate()
            try:
                return program.wait()
            finally:
                self._programs.discard(program)

    def _note_stop(self, number: int, frame: FrameType | None) -> None:
        again, self.stop_signal = self.stop_signal is not None, number
        if not again:  # not by a logger, whose write this may have broken into
            os.write(2, f"{self._stopped_by()}: the programs under way are asked to stop; again: killed\n".encode())
        for program in tuple(self._programs):
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.killpg(program.pid, signal.SIGKILL) if again else program.terminate()

    def _stopped_by(self) -> str:
        return signal.Signals(self.stop_signal or 0).name


def environments(jobs: int) -> list[dict[str, str]]:
    """Variables of the programs that run beside each other: a share of the cores, and a GPU where there are some.

    Small networks are quicker one to a core than one after the other on all cores; with as many threads as cores each,
    programs beside each other are slower than in turn.
    """
    cores = len(os.sched_getaffinity(0))
    threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, cores // jobs))}
    gpus = visible_gpus()
    return [threads | ({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {}) for i in range(jobs)]


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]
