"""Starts training runs in forks of one process that has imported everything: a start costs a moment, not seconds.

    python tests/fault_driver.py        reads lines "<option file> [ENV=value ...]" on stdin; for each it prints the
                                        pid of the run at once, and its exit code when it has ended

For tests that kill, fill the disk, or hang: each run is a process of its own and does what `basicsr/train.py` does.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Driver:
    """The other side of the pipe, for the tests."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def start(self, options: Path, stderr: Path, **environment: str) -> int:
        """Start `train.py -opt options --auto_resume`; returns its pid. Its stderr is added to the file."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        words = [str(options), str(stderr), *(f"{key}={value}" for key, value in environment.items())]
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def wait(self) -> int:
        """Exit code of the run; -9 after SIGKILL."""
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def run(self, options: Path, stderr: Path, **environment: str) -> int:
        """Start and wait."""
        self.start(options, stderr, **environment)
        return self.wait()

    def close(self) -> None:
        """End the driver."""
        self.process.communicate("")


def serve() -> None:
    """Fork a run for each line."""
    from basicsr.train import main  # everything is imported before the first fork
    from basicsr.utils.cli import run_main

    for line in sys.stdin:
        options, stderr, *environment = line.split()
        pid = os.fork()
        if pid == 0:
            os.environ |= dict(pair.split("=", 1) for pair in environment)
            descriptor = os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            sys.argv = ["train.py", "-opt", options, "--auto_resume"]
            if "MAX_FILE_BYTES" in os.environ:
                limit = int(os.environ["MAX_FILE_BYTES"])
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            code = 1
            try:
                run_main(lambda _: main(sys.argv[1:]))
            except SystemExit as leaving:
                code = int(leaving.code or 0)
            except BaseException:
                logging.exception("the run crashed")
            finally:
                os._exit(code)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
