"""Size of the networks of a run: parameters, how many of them train, FLOPs of one image."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from basicsr.engine.loaders import move_to
from basicsr.models.base_model import BaseModel
from basicsr.utils.dist_util import bare_net

logger = logging.getLogger(__name__)

Summary = dict[str, dict[str, int]]


def model_summary(stage: BaseModel, dataset: Any) -> Summary:
    """`params`, `trainable` and `flops` of each network of the stage, by its name in the options.

    `flops` are of the forward of one image, a multiply-add counts as 2: net_g and what gives it an identity while
    restoring, net_d while judging. They are counted by running these once on the first training sample; neither
    weights nor random generators change. network_vqgan has none: it restores nothing.
    """
    nets: dict[str, nn.Module | None] = {
        "network_g": bare_net(stage.net_g),
        "network_d": None if stage.net_d is None else bare_net(stage.net_d),
        "network_vqgan": stage.vqgan,
        "network_identity": stage.identity,
        "self_encoder": stage.self_encoder,
    }
    summary = {name: _sizes(net) for name, net in nets.items() if net is not None}
    net_g, net_d = nets["network_g"], nets["network_d"]
    assert net_g is not None
    batch = move_to(default_collate([dataset[0, 0]]), stage.device)
    with _counting() as counter:
        stage.restore(batch, _still(net_g))
    total, own = counter.get_total_flops(), sum(counter.get_flop_counts().get(type(net_g).__name__, {}).values())
    summary["network_g"]["flops"] = own
    if total > own and "network_identity" in summary:
        summary["network_identity"]["flops"] = total - own
    if net_d is not None:
        with _counting() as counter:
            _still(net_d)(batch["gt"])
        summary["network_d"]["flops"] = counter.get_total_flops()
    return summary


def log_summary(summary: Summary) -> None:
    """One line for each network."""
    for name, sizes in summary.items():
        flops = f", {sizes['flops'] / 1e9:.2f} GFLOPs for one image" if "flops" in sizes else ""
        logger.info(
            "%s: %.2f M parameters, %.2f M trainable%s", name, sizes["params"] / 1e6, sizes["trainable"] / 1e6, flops
        )


def _sizes(net: nn.Module) -> dict[str, int]:
    parameters = list(net.parameters())
    return {
        "params": sum(p.numel() for p in parameters),
        "trainable": sum(p.numel() for p in parameters if p.requires_grad),
    }


def _still(net: nn.Module) -> nn.Module:
    """A copy for one forward: in eval mode, so that no statistics move, and without gradients."""
    return copy.deepcopy(net).eval().requires_grad_(False)


@contextmanager
def _counting() -> Iterator[FlopCounterMode]:
    """Eager forwards that leave the random generators as they were.

    Attention by its plain formula: the counter knows no fused kernel on the CPU.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield stack.enter_context(FlopCounterMode(display=False))
