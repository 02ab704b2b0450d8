"""Reads batches so that all ranks hear of a fault or of a stop at the same place: before any of them computes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from basicsr.engine.interrupts import Interrupts, StopWaiting
from basicsr.engine.watchdog import Watchdog
from basicsr.utils.dist_util import on_any_rank
from basicsr.utils.errors import UserError

Batch = dict[str, Any]


class StopRun(BaseException):
    """A signal asks the run to stop; raised on all ranks alike. Nothing is half done, and nothing is at fault."""


class DataError(Exception):
    """A batch could not be read on some rank; raised on all ranks alike, from the fault where it is known."""


class Reader:
    """The one place where a run waits for data.

    Args:
        interrupts: of the run.
        watchdog: of the run; it hears of each batch.
    """

    def __init__(self, interrupts: Interrupts, watchdog: Watchdog) -> None:
        self.interrupts, self.watchdog = interrupts, watchdog

    def next(self, source: Iterator[Batch], what: str) -> Batch | None:
        """The next batch; None where this rank's `source` is at its end. All ranks call it equally often.

        Args:
            what: is read, for the watchdog's error.
        Raises:
            StopRun: a rank has a stop signal.
            DataError: a rank could not read.
        """
        batch: Batch | None = None
        fault: Exception | None = None
        stop = False
        self.watchdog.beat(f"waiting for {what}")
        try:
            with self.interrupts.waiting():
                batch = next(source, None)
        except StopWaiting:
            stop = True
            self.interrupts.end_workers()  # before torch waits for one that hangs
        except RuntimeError as error:
            fault = _worker_fault(str(error), what) or error
            self.interrupts.end_workers()
        except Exception as error:  # raised again below, after the other ranks have heard of it
            fault = error
        self.watchdog.beat(f"waiting for the other ranks, after {what}")
        any_fault, any_stop = on_any_rank(fault is not None, stop)
        if any_fault:
            raise DataError from fault or UserError("the data failed on another rank, whose message says how.")
        if any_stop:
            raise StopRun
        self.watchdog.beat(f"computing, after {what}")
        return batch


def _worker_fault(text: str, what: str) -> UserError | None:
    """One line for torch's error about a loader process; None for any other error."""
    if text.startswith("DataLoader timed out"):
        return UserError(
            f"{what}: the loader processes did not give it in time ({text}: `timeout` of that data set). Look for a "
            "file system or a single file that does not answer; num_worker_per_gpu: 0 shows where it hangs."
        )
    if text.startswith("DataLoader worker"):
        return UserError(
            f"a loader process died while the run waited for {what} ({text.splitlines()[0].strip()}). The usual "
            "reasons: no memory left (fewer num_worker_per_gpu), or a small /dev/shm."
        )
    return None
