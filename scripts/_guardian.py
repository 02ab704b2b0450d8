"""A folder that goes with the process that uses it, however that ends: also by kill -9.

A second process waits for the end of its standard input, whose other end the first one holds, and removes the folder.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """`folder` is removed at the end of the context, or when this process is gone."""
    command = [sys.executable, "-I", str(Path(__file__).resolve()), str(folder)]
    quiet = subprocess.DEVNULL
    # a session of its own: Ctrl-C and a closed terminal are for the owner
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True):
        yield


def main(folder: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a shutdown tells everybody; the owner's end is waited for
    sys.stdin.buffer.read()
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
