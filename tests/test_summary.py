"""Size of the networks of a run: counted as by hand, and without a trace in the run."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from toy_run import build, parse, run, stage_options

from basicsr.archs.discriminator_arch import VQGANDiscriminator
from basicsr.engine.loaders import build_dataset
from basicsr.engine.summary import model_summary


def conv_flops(net: nn.Module, size: int) -> int:
    """Two per multiply-add of each convolution of a chain of modules, seen by one picture."""
    total, picture = 0, torch.zeros(1, 3, size, size)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            picture = torch.zeros(1, module.out_channels, *module(picture).shape[-2:])
            total += 2 * picture.numel() * module.in_channels * module.kernel_size[0] * module.kernel_size[1]
    return total


def test_parameters_and_flops_are_those_counted_by_hand(tmp_path: Path) -> None:
    run(stage_options(1, tmp_path, total_iter=1), tmp_path)
    options = parse(stage_options(3, tmp_path), tmp_path)
    stage = build(options)
    state, rng = {k: v.clone() for k, v in stage.net_g.state_dict().items()}, torch.get_rng_state()
    summary = model_summary(stage, build_dataset(options.training()[1]))
    assert stage.net_d is not None
    assert isinstance(stage.net_d, VQGANDiscriminator)
    assert summary["network_d"]["flops"] == conv_flops(stage.net_d, 32)
    trained = sum(p.numel() for p in stage.net_g.parameters() if p.requires_grad)
    assert summary["network_g"]["trainable"] == trained < summary["network_g"]["params"]
    assert summary["network_vqgan"]["trainable"] == summary["network_identity"]["trainable"] == 0
    assert summary["network_identity"]["flops"] > 0
    assert torch.equal(rng, torch.get_rng_state())
    assert stage.net_g.training
    assert all(torch.equal(value, stage.net_g.state_dict()[name]) for name, value in state.items())
