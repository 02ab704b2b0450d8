"""Size of the networks of a run: parameters, how many of them train, FLOPs of one image."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from basicsr.engine.loaders import move_to
from basicsr.models.base_model import BaseModel
from basicsr.utils.dist_util import bare_net

logger = logging.getLogger(__name__)


def model_summary(stage: BaseModel, dataset: Any) -> dict[str, dict[str, int]]:
    """`params`, `trainable` and `flops` (forward of one image, a multiply-add counts 2) of each network of the stage.

    FLOPs are those of one restoration and of one look of the discriminator, counted by running them once on the first
    sample; a network that takes no part in a restoration has none. Neither weights nor random generators change.
    """
    nets = {"network_g": bare_net(stage.net_g), "network_d": stage.net_d and bare_net(stage.net_d)}
    nets |= {"network_vqgan": stage.vqgan, "network_identity": stage.identity, "self_encoder": stage.self_encoder}
    found: Mapping[str, nn.Module] = {name: net for name, net in nets.items() if net is not None}
    summary = {
        name: {
            "params": sum(p.numel() for p in net.parameters()),
            "trainable": sum(p.numel() for p in net.parameters() if p.requires_grad),
        }
        for name, net in found.items()
    }
    counter = _count(stage, found, dataset)
    counts = counter.get_flop_counts()
    for name, net in found.items():
        flops = sum(counts.get(type(net).__name__, {}).values())
        if flops:
            summary[name]["flops"] = int(flops)
    return summary
