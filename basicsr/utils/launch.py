"""How this process was started: alone, by torchrun, or by Slurm.

All of it ends in torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), which
`init_distributed` reads.
"""

from __future__ import annotations

import os
import re
from collections.abc import MutableMapping

from basicsr.utils.errors import UserError

SLURM_PORT = 29_500  # first of 1000; the job's number chooses, so that two jobs on a node stay apart


def adopt_launcher(launcher: str, local_rank: int | None, env: MutableMapping[str, str] = os.environ) -> None:
    """Bring what the launcher said into torchrun's variables.

    Args:
        launcher: none or pytorch (torchrun, recognised by itself), or slurm (`srun` starts one process per GPU).
        local_rank: `--local-rank` of the old torch.distributed.launch; None where it is not given.
    Raises:
        UserError: the launcher's variables are not there.
    """
    if launcher == "slurm":
        _adopt_slurm(env)
    elif launcher == "pytorch" and "WORLD_SIZE" not in env:
        raise UserError(
            "--launcher pytorch: WORLD_SIZE is not set, so torchrun has not started this process. Start it with "
            "torchrun --nproc_per_node=N basicsr/train.py ..., or leave --launcher out for one process."
        )
    if local_rank is not None:
        env.setdefault("LOCAL_RANK", str(local_rank))


def _adopt_slurm(env: MutableMapping[str, str]) -> None:
    missing = [name for name in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NODELIST") if name not in env]
    if missing:
        raise UserError(
            f"--launcher slurm: {', '.join(missing)} not set, so srun has not started this process. Use "
            "scripts/slurm/train.sbatch, or srun --ntasks-per-node=N python basicsr/train.py --launcher slurm ..."
        )
    env["RANK"], env["WORLD_SIZE"], env["LOCAL_RANK"] = env["SLURM_PROCID"], env["SLURM_NTASKS"], env["SLURM_LOCALID"]
    env.setdefault("MASTER_ADDR", first_host(env["SLURM_NODELIST"]))
    env.setdefault("MASTER_PORT", str(SLURM_PORT + int(env.get("SLURM_JOB_ID", "0")) % 1000))


def first_host(node_list: str) -> str:
    """The first name of a Slurm node list: `gpu[03-05,9],login` -> gpu03."""
    found = re.match(r"([^,\[]+)(?:\[(\w+)[^\]]*\]([^,\[]*))?", node_list.strip())
    if found is None:
        raise UserError(f"SLURM_NODELIST: found {node_list!r}, expected names like gpu[03-05].")
    return "".join(part or "" for part in found.groups())


def was_restarted(env: MutableMapping[str, str] = os.environ) -> bool:
    """Whether torchrun (--max-restarts) or Slurm (requeue) starts this run again: then it goes on where it stood."""
    return int(env.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0 or int(env.get("SLURM_RESTART_COUNT", "0")) > 0
