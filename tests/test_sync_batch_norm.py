"""SyncBatchNorm2d on two gloo ranks against torch's BatchNorm2d on the whole batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from basicsr.archs.sync_batch_norm import SyncBatchNorm2d

# run by each of two ranks: three samples for the one, two for the other
RANK_PROGRAM = """
import sys, torch, torch.distributed as dist
from basicsr.archs.sync_batch_norm import SyncBatchNorm2d
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
given = torch.load(f"{folder}/given.pt", weights_only=True)
norm = SyncBatchNorm2d(4)
norm.load_state_dict(given["state"])
part = slice(0, 3) if rank == 0 else slice(3, 5)
x = given["x"][part].requires_grad_()
y = norm(x)
(y * given["gradient"][part]).sum().backward()
found = {"y": y.detach(), "x": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad, "state": norm.state_dict()}
torch.save(found, f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


def given_case() -> dict[str, object]:
    """A batch far from zero, on which a difference of squares would lose digits; weight and bias are not 1 and 0."""
    rng = torch.Generator().manual_seed(0)
    norm = nn.BatchNorm2d(4)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(4, generator=rng) + 0.5)
        norm.bias.copy_(torch.randn(4, generator=rng))
    x = torch.randn(5, 4, 6, 7, generator=rng) + 30
    return {"x": x, "gradient": torch.randn(5, 4, 6, 7, generator=rng), "state": norm.state_dict()}


@pytest.mark.slow
def test_two_ranks_normalise_as_batch_norm_does_with_the_whole_batch(tmp_path: Path) -> None:
    given = given_case()
    torch.save(given, tmp_path / "given.pt")
    command = [sys.executable, "-c", RANK_PROGRAM]
    ranks = [subprocess.Popen([*command, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [process.wait(120) for process in ranks] == [0, 0]
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    norm = nn.BatchNorm2d(4)
    norm.load_state_dict(given["state"])  # type: ignore[arg-type]
    x = given["x"].clone().requires_grad_()  # type: ignore[attr-defined]
    y = norm(x)
    (y * given["gradient"]).sum().backward()
    assert x.grad is not None
    for name, expected in (("y", y.detach()), ("x", x.grad)):
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), expected, rtol=1e-4, atol=2e-5)
    for name in ("weight", "bias"):  # sums over samples: the ranks' parts add up
        total = parts[0][name] + parts[1][name]
        torch.testing.assert_close(total, norm.get_parameter(name).grad, rtol=1e-4, atol=2e-5)
    for part in parts:
        for key, value in norm.state_dict().items():
            torch.testing.assert_close(part["state"][key], value, rtol=1e-5, atol=1e-6)


def test_on_one_rank_it_is_batch_norm_bit_for_bit() -> None:
    torch.manual_seed(0)
    ours, theirs = SyncBatchNorm2d(4), nn.BatchNorm2d(4)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.eval()(x), theirs.eval()(x))
    assert torch.equal(ours.running_var, theirs.running_var)  # type: ignore[arg-type]
