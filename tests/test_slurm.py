"""The Slurm script of several nodes: what it starts, and when it puts the job back. Slurm itself is played here."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "slurm" / "train.sbatch"
# each writes down how it was called; srun runs its command, which is `python`, that is, the fake below
PROGRAMS = {
    "srun": 'while [ "$1" != bash ]; do shift; done; exec "$@"',
    "scontrol": '[ "$1" = show ] && printf "node7\\nnode8\\n"',
    "scancel": "touch signalled",
    "python": 'touch started; while [ -n "$WAITS" ] && [ ! -e signalled ]; do sleep 0.02; done; exit "$CODE"',
}


def submit(folder: Path, code: int, waits: bool = False) -> subprocess.Popen[bytes]:
    """Run the script as Slurm runs it; the training ends with `code`, after a signal if it `waits`."""
    programs = folder / "bin"
    programs.mkdir()
    for name, body in PROGRAMS.items():
        path = programs / name
        path.write_text(f'#!/bin/bash\necho "$@" >> calls_{name}\n{body}\n')
        path.chmod(0o755)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "1234",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_RESTART_COUNT": "3",
        "CODE": str(code),
        "WAITS": "1" if waits else "",
    }
    return subprocess.Popen(["bash", str(SCRIPT), "my options.yml", "--debug"], env=environment, cwd=folder)


def requeued(folder: Path) -> bool:
    return "requeue 1234" in (folder / "calls_scontrol").read_text()


def test_the_script_is_sound_shell() -> None:
    assert subprocess.run(["bash", "-n", str(SCRIPT)]).returncode == 0


def test_every_node_gets_an_agent_that_meets_the_others_on_the_first_one(tmp_path: Path) -> None:
    assert submit(tmp_path, code=0).wait() == 0
    (call,) = (tmp_path / "calls_python").read_text().splitlines()
    assert "-m torch.distributed.run --nnodes=2 --nproc_per_node=4 --max_restarts=0" in call
    assert "--rdzv_backend=c10d --rdzv_endpoint=node7:29734 --rdzv_id=1234_3" in call
    assert call.endswith("basicsr/train.py -opt my options.yml --auto_resume --debug")
    assert not requeued(tmp_path)


@pytest.mark.parametrize(("code", "back"), [(75, True), (2, False), (1, False)])
def test_a_job_that_ends_by_itself_goes_back_only_with_the_code_of_a_stopped_run(
    tmp_path: Path, code: int, back: bool
) -> None:
    assert submit(tmp_path, code).wait() == code
    assert requeued(tmp_path) == back


@pytest.mark.parametrize(("code", "back"), [(1, True), (75, True), (0, False)])
def test_the_signal_before_the_end_reaches_the_step_and_the_job_goes_back_if_it_was_not_done(
    tmp_path: Path, code: int, back: bool
) -> None:
    job = submit(tmp_path, code, waits=True)
    while not (tmp_path / "started").exists():
        time.sleep(0.01)
    job.send_signal(signal.SIGUSR1)
    assert job.wait() == (75 if back else 0)
    assert (tmp_path / "calls_scancel").read_text() == "--signal=USR1 1234\n"
    assert requeued(tmp_path) == back
