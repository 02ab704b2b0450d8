"""A run that hangs ends with an error: a thread that watches for signs of life.

It sees what no time-out of a single part sees: a file system that does not answer the main process, a rank that waits
in a collective for one that has gone, a deadlock.
"""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import sys
import threading
import time
from types import TracebackType

logger = logging.getLogger(__name__)

EXIT_FAILED = 2  # as any run that ends with its reason in one line
LOOKS = 20  # within the limit


class Watchdog:
    """Between `__enter__` and `__exit__`, ends the process `limit` seconds after the last `beat`.

    Args:
        limit: seconds.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._last, self._doing = time.monotonic(), "start"
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def beat(self, doing: str) -> None:
        """A sign of life, with what comes next, for the error."""
        self._last, self._doing = time.monotonic(), doing

    def __enter__(self) -> Watchdog:
        self.beat("start")
        self._over.clear()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        assert self._thread is not None
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(self.limit / LOOKS):
            if time.monotonic() - self._last > self.limit:
                self._end()

    def _end(self) -> None:
        faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)  # where it hangs
        logger.critical(
            "error: no sign of life for %g s (train.timeout) in: %s. Above stands where each thread hangs. The last "
            "checkpoint is untouched; --auto_resume goes on from it.",
            self.limit,
            self._doing,
        )
        for child in multiprocessing.active_children():  # a loader worker that hangs would outlive this process
            child.kill()
        os._exit(EXIT_FAILED)  # the main thread hangs: no exception reaches it
