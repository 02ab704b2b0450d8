"""Several processes as one: what torchrun says, collectives that are no-ops on one process, and DDP wrapping."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from basicsr.utils.errors import UserError


def init_distributed(device: torch.device, timeout: float = 1800.0, backend: str = "auto") -> None:
    """Join the process group that torchrun describes in the environment; nothing without torchrun.

    Args:
        timeout: seconds after which waiting for another rank is an error.
        backend: nccl or gloo for what is on the device; auto: nccl on a GPU.
    Raises:
        UserError: nccl without a GPU, or a torch that was built without it.
    """
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        return
    if int(os.environ["WORLD_SIZE"]) > 1:
        if backend == "nccl" and (device.type != "cuda" or not dist.is_nccl_available()):
            raise UserError(f"train.backend: nccl cannot be had here (device {device}). Use auto or gloo.")
        # gloo beside nccl: what ranks tell each other about signals and faults must not wait for the GPU
        on_gpu = device.type == "cuda" and backend != "gloo" and dist.is_nccl_available()
        both = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        dist.init_process_group(both, timeout=timedelta(seconds=timeout))
    if not is_main():  # what concerns the whole run is said once, by rank 0
        logging.getLogger("basicsr").setLevel(logging.WARNING)


def close_distributed() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def default_device(env: Mapping[str, str] = os.environ) -> torch.device:
    """This rank's GPU, by LOCAL_RANK, where there is one, else the CPU.

    Raises:
        UserError: this node has more processes than GPUs.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    index, num_gpus = int(env.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if num_gpus == 1 and "SLURM_LOCALID" in env:
        index = 0  # Slurm may show each process its own GPU alone
    if index >= num_gpus:
        raise UserError(
            f"LOCAL_RANK is {index}, but this node shows {num_gpus} GPU(s). Start at most {num_gpus} processes on it "
            f"(torchrun --nproc_per_node={num_gpus}), or look at CUDA_VISIBLE_DEVICES."
        )
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def rank() -> int:
    """Number of this process, 0 without torchrun."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes, 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes logs and files."""
    return rank() == 0


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized():
        dist.barrier()


def wrap_ddp(net: nn.Module, device: torch.device, find_unused: bool) -> nn.Module:
    """`net` in DistributedDataParallel when there are several ranks and something to train, else `net` itself."""
    if world_size() == 1 or not any(p.requires_grad for p in net.parameters()):
        return net
    device_ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(net, device_ids=device_ids, find_unused_parameters=find_unused)


def bare_net(net: nn.Module) -> nn.Module:
    """The network inside a DDP wrapper, or `net` itself."""
    return net.module if isinstance(net, DistributedDataParallel) else net


@contextmanager
def without_sync(net: nn.Module, on: bool) -> Iterator[None]:
    """While `on`, forward and backward of `net` keep their gradients on this rank; they add up until one is sent."""
    if on and isinstance(net, DistributedDataParallel):
        with net.no_sync():
            yield
    else:
        yield


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """Mean over ranks, the same on all of them. The input is not changed."""
    if world_size() == 1:
        return tensor
    return all_reduce_sum(tensor) / world_size()


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum over ranks, the same on all of them. The input is not changed."""
    if world_size() == 1:
        return tensor
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def all_reduce_mean_of(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Mean over ranks of each tensor, all in one message. They have one type; the inputs are not changed."""
    if world_size() == 1 or not tensors:
        return list(tensors)
    flat = all_reduce_mean(torch.cat([tensor.detach().reshape(-1) for tensor in tensors]))
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def all_gather_tensor(tensor: Tensor) -> Tensor:
    """`tensor` (...) of every rank, in rank order: (R, ...) on every rank. The shapes are equal; no gradient."""
    if world_size() == 1:
        return tensor.detach().unsqueeze(0)
    own = tensor.detach().contiguous()
    parts = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(parts, own)
    return torch.stack(parts)


def broadcast_from_main(tensor: Tensor) -> None:
    """Overwrite `tensor` on every rank with that of rank 0."""
    if world_size() > 1:
        dist.broadcast(tensor.detach(), src=0)


def all_gather_objects(item: Any) -> list[Any]:
    """`item` of every rank, in rank order, on every rank."""
    if world_size() == 1:
        return [item]
    items: list[Any] = [None] * world_size()
    dist.all_gather_object(items, item)
    return items


def on_any_rank(*facts: bool) -> list[bool]:
    """For each fact, whether it holds on some rank; all ranks call it and get the same answer, on the CPU."""
    if world_size() == 1:
        return list(facts)
    told = torch.tensor(facts, dtype=torch.uint8)
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return [bool(fact) for fact in told]


def lost_rank(error: RuntimeError) -> bool:
    """Whether the error says that another rank is gone or does not answer. gloo has no type of its own for that."""
    return world_size() > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error))
