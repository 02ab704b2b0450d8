"""torchrun, the old launcher and Slurm all end in the same variables; a rank without a GPU of its own is told so."""

from __future__ import annotations

import pytest
import torch

from basicsr.utils.dist_util import default_device, init_distributed
from basicsr.utils.errors import UserError
from basicsr.utils.launch import adopt_launcher, first_host, was_restarted


@pytest.mark.parametrize(
    ("node_list", "host"),
    [("gpu03", "gpu03"), ("gpu[03-05,9]", "gpu03"), ("a1,b[2-3]", "a1"), ("rack2-n[7,9]-ib,login", "rack2-n7-ib")],
)
def test_the_first_host_of_a_node_list(node_list: str, host: str) -> None:
    assert first_host(node_list) == host


def test_slurm_becomes_torchruns_variables() -> None:
    env = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_NODELIST": "n[2-3]"}
    env["SLURM_JOB_ID"] = "4711"
    adopt_launcher("slurm", None, env)
    found = {name: env[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")}
    assert found == {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "n2", "MASTER_PORT": "30211"}


def test_a_launcher_that_has_not_launched_is_named() -> None:
    with pytest.raises(UserError, match="srun has not started"):
        adopt_launcher("slurm", None, {"SLURM_PROCID": "0"})
    with pytest.raises(UserError, match="torchrun has not started"):
        adopt_launcher("pytorch", 0, {})


def test_the_old_launchers_local_rank_counts_where_torchrun_has_set_none() -> None:
    env: dict[str, str] = {}
    adopt_launcher("none", 3, env)
    assert env == {"LOCAL_RANK": "3"}
    env = {"LOCAL_RANK": "1", "WORLD_SIZE": "2"}
    adopt_launcher("pytorch", 3, env)
    assert env["LOCAL_RANK"] == "1"


def test_a_restart_of_torchrun_or_slurm_goes_on() -> None:
    assert not was_restarted({})
    assert not was_restarted({"TORCHELASTIC_RESTART_COUNT": "0"})
    assert was_restarted({"TORCHELASTIC_RESTART_COUNT": "1"})
    assert was_restarted({"SLURM_RESTART_COUNT": "2"})


def test_a_node_with_fewer_gpus_than_processes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert default_device({"LOCAL_RANK": "1"}) == torch.device("cuda", 1)
    assert chosen == [torch.device("cuda", 1)]
    with pytest.raises(UserError, match=r"LOCAL_RANK is 2, but this node shows 2 GPU.*nproc_per_node=2"):
        default_device({"LOCAL_RANK": "2"})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert default_device({"LOCAL_RANK": "3", "SLURM_LOCALID": "3"}) == torch.device("cuda", 0)


def test_nccl_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"train\.backend: nccl cannot be had"):
        init_distributed(torch.device("cpu"), backend="nccl")
