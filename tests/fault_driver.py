"""Starts training runs in forks of one process that has imported everything: a start costs a moment, not seconds.

    python tests/fault_driver.py        reads lines on stdin, answers each with a line on stdout:
        start OPTION_FILE STDERR_FILE [NAME=value ...]      the pid of a new run; NAME are environment variables
        wait PID                                            the exit code of the run, negative: the signal that ended it

For tests that kill, fill the disk, or hang: each run is a process of its own and does what
`basicsr/train.py -opt OPTION_FILE --auto_resume` does. MAX_FILE_BYTES=n lets no file grow beyond n bytes;
NAN_AT=rank:iteration makes the losses of stage I NaN there, on that rank alone.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

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
        words = [str(options), str(stderr), *(f"{key}={value}" for key, value in environment.items())]
        return self._ask("start", *words)

    def start_ranks(self, options: Path, stderr: Path, ranks: int = 2, **environment: str) -> list[int]:
        """Start one run of several ranks, as torchrun does; returns their pids. Each has a file, stderr.<rank>."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        common = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **environment}
        return [
            self.start(options, Path(f"{stderr}.{rank}"), RANK=str(rank), LOCAL_RANK=str(rank), **common)
            for rank in range(ranks)
        ]

    def wait(self, pid: int) -> int:
        """Exit code of the run; -9 after SIGKILL."""
        return self._ask("wait", str(pid))

    def run(self, options: Path, stderr: Path, **environment: str) -> int:
        """Start and wait."""
        return self.wait(self.start(options, stderr, **environment))

    def _ask(self, *words: str) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        """End the driver."""
        self.process.communicate("")


def serve() -> None:
    """Answer the lines on stdin."""
    # everything is imported before the first fork, also what an optimiser imports when it is built
    import torch._dynamo  # noqa: F401

    import basicsr.train  # noqa: F401

    for line in sys.stdin:
        command, *words = line.split()
        if command == "wait":
            answer = os.waitstatus_to_exitcode(os.waitpid(int(words[0]), 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                be_a_run(*words)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


def be_a_run(options: str, stderr: str, *environment: str) -> NoReturn:
    """What `python basicsr/train.py -opt options --auto_resume` does, in this process."""
    from basicsr.train import main
    from basicsr.utils.cli import run_main

    os.environ |= dict(pair.split("=", 1) for pair in environment)
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    if "MAX_FILE_BYTES" in os.environ:
        limit = int(os.environ["MAX_FILE_BYTES"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as on a full disk: an error, not a signal
    if "NAN_AT" in os.environ:
        put_nan(*os.environ["NAN_AT"].split(":"))
    sys.argv = ["train.py", "-opt", options, "--auto_resume"]
    code = 1
    try:
        run_main(lambda _: main(sys.argv[1:]))
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)  # the stack above belongs to the driver


def put_nan(rank: str, iteration: str) -> None:
    """Spoil the losses of one iteration on one rank."""
    from basicsr.models.base_model import Batch, Losses
    from basicsr.models.vqgan_model import VQGANModel

    compute = VQGANModel.generator_losses

    def spoiled(self: VQGANModel, batch: Batch, current_iter: int) -> tuple[Losses, Any]:
        losses, restored = compute(self, batch, current_iter)
        if os.environ.get("RANK", "0") == rank and current_iter == int(iteration):
            losses = {name: value * float("nan") for name, value in losses.items()}
        return losses, restored

    VQGANModel.generator_losses = spoiled  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    serve()
