"""Signals while training: stop after a checkpoint, and a loader worker that dies; neither breaks into an iteration.

A handler runs wherever the program stands. Inside an iteration it only takes a note; inside `waiting` (for data, where
nothing is half done) it raises, so that a run that waits for a slow disk stops as soon as one that computes.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
EXIT_STOPPED = 75  # EX_TEMPFAIL: stopped by a signal after a checkpoint; start again with --auto_resume


@contextmanager
def stop_signals_held() -> Iterator[None]:
    """Stop signals wait until the end, and for ever in processes that start in here.

    A process inherits the handlers of its parent. A loader worker that a signal reaches before it ignores signals would
    run the parent's, and be stuck half dead: the run would wait for its batch until the time-out.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows, which has no such signals either
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopWaiting(BaseException):
    """A stop signal came while the run waited. Not an Exception: nothing on the way may take it for a fault."""


class Interrupts:
    """Takes the stop signals and SIGCHLD over between `__enter__` and `__exit__`, in the main thread.

    On the way out it ends the loader workers that were started meanwhile: one that hangs would keep the program.
    """

    def __init__(self) -> None:
        self.stop_signal: int | None = None
        self._waiting = False
        self._worker_died = False
        self._previous: dict[int, Any] = {}
        self._complain: Callable[..., Any] | None = None  # torch's handler: raises if a loader worker has failed
        self._children: set[int | None] = set()

    def __enter__(self) -> Interrupts:
        self._children = {child.pid for child in multiprocessing.active_children()}
        self._previous = {number: signal.signal(number, self._note_stop) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_workers()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Nothing is half done in here, so that a stop signal may raise StopWaiting, and a dead worker its error."""
        if self.stop_signal is not None:
            raise StopWaiting
        self._waiting = True
        try:
            if self._worker_died and self._complain is not None:
                self._worker_died = False
                self._complain(signal.SIGCHLD, None)
            yield
        finally:
            self._waiting = False
            self._adopt_child_handler()

    def end_workers(self) -> None:
        """Kill the processes started since `__enter__`: loader workers, which only read. They ignore stop signals."""
        if self._complain is not None:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # these deaths are no fault
        for child in multiprocessing.active_children():
            if child.pid not in self._children:
                child.kill()
                child.join()
        if self._complain is not None:
            signal.signal(signal.SIGCHLD, self._complain)
            self._complain = None

    def _note_stop(self, number: int, frame: FrameType | None) -> None:
        """The iteration in flight is finished first; a second Ctrl-C stops at once."""
        if self.stop_signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.stop_signal = number
        if self._waiting:
            self._waiting = False
            raise StopWaiting

    def _adopt_child_handler(self) -> None:
        """torch sets its SIGCHLD handler with the first worker, and raises from it anywhere: between the steps of the
        two optimisers, where the state cannot be saved. From now on it waits for `waiting`."""
        current = signal.getsignal(signal.SIGCHLD)
        if callable(current) and current != self._note_child:
            self._complain = current
            signal.signal(signal.SIGCHLD, self._note_child)

    def _note_child(self, number: int, frame: FrameType | None) -> None:
        if self._waiting and self._complain is not None:
            self._complain(number, frame)
        else:
            self._worker_died = True
